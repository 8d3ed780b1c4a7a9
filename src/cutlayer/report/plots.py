"""The figures of a run and of a comparison, as PNG; legible without telling colours apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cutlayer.report.labels import Note, annotate
from cutlayer.report.style import (
    COLOURS,
    GREY,
    LINES,
    MARKERS,
    digits,
    legend,
    new_figure,
    plain_log,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """One run, a value for each evaluated round: the round, the megabytes (1e6 bytes) sent in
    both directions so far, and the accuracy as a fraction."""

    rounds: Sequence[int]
    megabytes: Sequence[float]
    accuracy: Sequence[float]


@dataclass(frozen=True)
class Traffic:
    """The bytes of one method in each direction."""

    label: str
    up_bytes: float
    down_bytes: float


@dataclass(frozen=True)
class Point:
    """One run in the plane of bytes and accuracy (a fraction); a group shares its colour."""

    label: str
    bytes: float
    accuracy: float
    group: str = ""


Curves = Mapping[str, Curve | Sequence[Curve]]
"""Curves by label; several under one label are its seeds, drawn as their mean and range."""


def label_map(counts: npt.NDArray[np.int64], classes: Sequence[str], path: Path) -> None:
    """Who holds which labels: counts [M, C] as shades, with each device's total above."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    devices = len(counts)
    cells = counts.T
    with new_figure(
        path,
        width=min(14, max(6, 2.5 + 0.6 * devices)),
        height=min(14, 2.2 + max(2.5, 0.34 * len(classes))),
    ) as figure:
        top, main = figure.subplots(
            2, 1, sharex=True, height_ratios=[1, max(2.5, 0.3 * len(classes))]
        )
        top.bar(range(devices), counts.sum(axis=1), width=0.8, color=GREY)
        top.set_ylabel("samples", fontsize=10)
        top.tick_params(bottom=False)
        top.grid(visible=False, axis="x")
        top.set_title(
            f"Who holds which labels: {devices} devices, {int(counts.sum()):,} samples", loc="left"
        )
        shown = np.ma.masked_equal(cells, 0)
        # Blues without its palest fifth: one sample must not look like none.
        blues = LinearSegmentedColormap.from_list("", colormaps["Blues"](np.linspace(0.18, 1, 256)))
        image = main.imshow(shown, cmap=blues, aspect="auto", vmin=0, interpolation="nearest")
        main.grid(visible=False)
        main.set_xlabel("device")
        main.set_ylabel("label")
        step = max(1, math.ceil(devices / 25 / 5) * 5 if devices > 25 else 1)
        main.set_xticks(range(0, devices, step))
        every = max(1, math.ceil(len(classes) / 40))
        names = [name if len(name) <= 18 else name[:17] + "\u2026" for name in classes]
        main.set_yticks(range(0, len(classes), every), names[::every], fontsize=10)
        if devices <= 24 and len(classes) <= 25:
            dark = cells > 0.5 * cells.max()
            for (row, column), count in np.ndenumerate(cells):
                if count:
                    colour = "white" if dark[row, column] else "black"
                    main.text(
                        column, row, f"{count}", ha="center", va="center", color=colour, fontsize=9
                    )
        figure.colorbar(image, ax=[top, main], label="samples", fraction=0.05, pad=0.02)


def accuracy_by_round(curves: Curves, path: Path) -> None:
    """Accuracy of the aggregated model after each round."""
    from matplotlib.ticker import MaxNLocator

    with new_figure(path) as figure:
        axes = figure.subplots()
        for index, (label, (rounds, _, accuracy)) in enumerate(_means(curves)):
            _line(axes, index, label, rounds, accuracy)
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        _finish_accuracy(figure, axes, "Accuracy by round", curves)


def accuracy_by_megabyte(curves: Curves, path: Path) -> None:
    """Accuracy against all megabytes sent so far; a method that sends none is a level line."""
    means = _means(curves)
    totals = [float(sent[-1]) for _, (_, sent, _) in means if sent[-1] > 0]
    with new_figure(path) as figure:
        axes = figure.subplots()
        if totals and max(totals) > 8 * min(totals):
            axes.set_xscale("log")
        for index, (label, (_, sent, accuracy)) in enumerate(means):
            if sent[-1] > 0:
                started = sent > 0  # a log axis has no place for an evaluation before round 1
                _line(axes, index, label, sent[started], accuracy[:, started])
            else:
                axes.axhline(
                    100 * accuracy.mean(axis=0)[-1],
                    color=GREY,
                    linestyle=LINES[1 + index % (len(LINES) - 1)],
                    label=f"{label} (sends nothing)",
                )
        plain_log(axes)
        axes.set_xlabel("sent up and down so far (MB)")
        _finish_accuracy(figure, axes, "Accuracy by megabyte sent", curves)


def bytes_by_method(rows: Sequence[Traffic], path: Path, per: str = "in total") -> None:
    """Megabytes up and down of each method, as labelled bars; `per` names the span."""
    values = np.array([[row.up_bytes, row.down_bytes] for row in rows]).reshape(-1, 2) / 1e6
    with new_figure(path, height=1.9 + 0.7 * len(rows)) as figure:
        axes = figure.subplots()
        places = np.arange(len(rows), dtype=float)
        for offset, column, name, colour, hatch in (
            (-0.2, 0, "up (device to server)", COLOURS[0], ""),
            (0.2, 1, "down (server to device)", COLOURS[4], "//"),
        ):
            bars = axes.barh(
                places + offset,
                values[:, column],
                height=0.38,
                label=name,
                color=colour,
                hatch=hatch,
                edgecolor="white",
            )
            axes.bar_label(bars, [digits(value) for value in values[:, column]], padding=4)
        axes.margins(x=0.12)
        axes.set_yticks(places, [row.label for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_xlabel(f"sent {per} (MB)")
        axes.set_title(f"Bytes sent {per}", loc="left")
        legend(figure)


def pareto(points: Sequence[Point], path: Path) -> None:
    """Bytes (logarithmic) against accuracy, with the front of the points no other one beats."""
    placed = [point for point in points if point.bytes > 0]
    front = pareto_front(placed)
    groups = list(dict.fromkeys(point.group for point in placed))
    with new_figure(path, width=9.5, height=6.2) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        for index, point in enumerate(p for p in points if p.bytes <= 0):
            axes.axhline(
                100 * point.accuracy,
                color=GREY,
                linestyle=LINES[(index + 1) % len(LINES)],
                label=f"{point.label} (sends nothing)",
            )
        for index, group in enumerate(groups):
            for number, point in enumerate(p for p in placed if p.group == group):
                axes.scatter(
                    point.bytes / 1e6,
                    100 * point.accuracy,
                    s=75 if point in front else 55,
                    color=COLOURS[index % len(COLOURS)],
                    marker=MARKERS[index % len(MARKERS)],
                    edgecolor="black" if point in front else "white",
                    linewidth=0.9,
                    label=group if group and not number else None,
                    zorder=4 if point in front else 3,
                )
        axes.plot(
            [point.bytes / 1e6 for point in front],
            [100 * point.accuracy for point in front],
            color="#444444",
            linewidth=1.3,
            drawstyle="steps-post",
            label="Pareto front: the best for the bytes",
            zorder=2,
        )
        axes.margins(x=0.12, y=0.12)
        plain_log(axes)
        axes.set_xlabel("sent up and down in total (MB, logarithmic)")
        axes.set_ylabel("accuracy (%)")
        axes.set_title("Accuracy against bytes sent", loc="left")
        legend(figure)
        # The front's labels take their places first.
        ordered = front + [point for point in placed if point not in front]
        annotate(
            figure,
            axes,
            [
                Note(
                    point.bytes / 1e6,
                    100 * point.accuracy,
                    point.label,
                    COLOURS[groups.index(point.group) % len(COLOURS)],
                    strong=point in front,
                )
                for point in ordered
            ],
        )


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both bytes and accuracy, by bytes."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.bytes, -point.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def _means(
    curves: Curves,
) -> list[
    tuple[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]]
]:
    """For each label: rounds all seeds have, mean megabytes, and accuracy [seeds, rounds]."""
    found = []
    for label, given in curves.items():
        seeds = [given] if isinstance(given, Curve) else list(given)
        rounds = sorted(set.intersection(*(set(seed.rounds) for seed in seeds))) if seeds else []
        if not rounds:
            continue
        picks = [[list(seed.rounds).index(number) for number in rounds] for seed in seeds]
        sent = np.array([np.take(s.megabytes, pick) for s, pick in zip(seeds, picks, strict=True)])
        accuracy = np.array(
            [np.take(s.accuracy, pick) for s, pick in zip(seeds, picks, strict=True)]
        )
        found.append((label, (np.array(rounds), sent.mean(axis=0), accuracy)))
    return found


def _line(
    axes: Axes,
    index: int,
    label: str,
    x: npt.NDArray[np.float64] | npt.NDArray[np.int64],
    accuracy: npt.NDArray[np.float64],
) -> None:
    colour = COLOURS[index % len(COLOURS)]
    axes.plot(
        x,
        100 * accuracy.mean(axis=0),
        color=colour,
        marker=MARKERS[index % len(MARKERS)],
        linestyle=LINES[index % len(LINES)],
        markersize=6,
        markeredgecolor="white",
        linewidth=1.8,
        markevery=max(1, len(x) // 12),
        label=label,
    )
    if len(accuracy) > 1:
        axes.fill_between(
            x,
            100 * accuracy.min(axis=0),
            100 * accuracy.max(axis=0),
            color=colour,
            alpha=0.18,
            linewidth=0,
        )


def _finish_accuracy(figure: Figure, axes: Axes, title: str, curves: Curves) -> None:
    seeds = max((1 if isinstance(g, Curve) else len(g) for g in curves.values()), default=1)
    axes.set_ylabel("accuracy (%)")
    axes.set_title(title + (f" (mean and range of {seeds} seeds)" if seeds > 1 else ""), loc="left")
    legend(figure)
