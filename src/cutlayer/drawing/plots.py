"""The figures of a run and of a comparison, as PNG; legible without telling colours apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cutlayer.drawing.label_placement import Note, annotate
from cutlayer.drawing.style import (
    COLOURS,
    GREY,
    LINES,
    MARKERS,
    digits,
    legend,
    new_figure,
    plain_log,
)


@dataclass(frozen=True)
class MethodBytes:
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


MOST_DEVICES = 1000
"""More columns are no longer told apart."""


def label_map(
    counts: npt.NDArray[np.int64],
    classes: Sequence[str],
    path: Path,
    fleet: int | None = None,
    held: int | None = None,
) -> None:
    """Who holds which labels: counts [M, C] as shades, with each device's total above.

    Of a large fleet the first thousand. fleet, held: all devices, and their samples; None: those
    of `counts`.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    fleet = len(counts) if fleet is None else fleet
    held = int(counts.sum()) if held is None else held
    counts = counts[:MOST_DEVICES]
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
        top.set_title(f"Who holds which labels: {fleet:,} devices, {held:,} samples", loc="left")
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


def bytes_by_method(rows: Sequence[MethodBytes], path: Path, per: str = "in total") -> None:
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
        # The front's labels take their places first; points on one spot share a label.
        ordered = front + [point for point in placed if point not in front]
        spots: dict[tuple[float, float], list[Point]] = {}
        for point in ordered:
            spots.setdefault((point.bytes, point.accuracy), []).append(point)
        annotate(
            figure,
            axes,
            [
                Note(
                    same[0].bytes / 1e6,
                    100 * same[0].accuracy,
                    ", ".join(dict.fromkeys(point.label for point in same)),
                    COLOURS[groups.index(same[0].group) % len(COLOURS)],
                    strong=same[0] in front,
                )
                for same in spots.values()
            ],
        )


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both bytes and accuracy, by bytes."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.bytes, -point.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front
