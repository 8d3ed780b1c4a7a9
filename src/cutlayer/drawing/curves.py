"""Accuracy as a run goes on: by round, by megabyte, by second and by joule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from cutlayer.drawing.style import COLOURS, GREY, LINES, MARKERS, legend, new_figure, plain_log
from cutlayer.record.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Amount = Literal["megabytes", "seconds", "joules"]
AMOUNTS: dict[Amount, tuple[str, str]] = {
    "megabytes": ("sent up and down so far (MB)", "Accuracy by megabyte sent"),
    "seconds": ("seconds so far in the job's world", "Accuracy by second"),
    "joules": ("spent by all devices so far (J)", "Accuracy by joule"),
}


@dataclass(frozen=True)
class Curve:
    """One run, a value for each evaluated round: the round, the accuracy as a fraction, and up to
    then the megabytes (1e6 bytes) sent in both directions and, in a world, seconds and joules."""

    rounds: Sequence[int]
    accuracy: Sequence[float]
    megabytes: Sequence[float]
    seconds: Sequence[float] = ()
    joules: Sequence[float] = ()

    def amount_at(self, target: float, amount: Amount) -> float | None:
        """What had been spent when the accuracy first was `target` or more; None if never."""
        for spent, accuracy in zip(getattr(self, amount), self.accuracy, strict=True):
            if accuracy >= target:
                return float(spent)
        return None

    def best_within(self, budget: float, amount: Amount) -> float | None:
        """The highest accuracy measured before more than `budget` was spent; None if none was."""
        spent = zip(getattr(self, amount), self.accuracy, strict=True)
        return max((accuracy for so_far, accuracy in spent if so_far <= budget), default=None)


def curve_of(rows: Sequence[Row]) -> Curve:
    """Accuracy by round and by what was spent so far, in the rounds that were evaluated."""
    megabytes = np.cumsum([(row.up_bytes + row.down_bytes) / 1e6 for row in rows])
    seconds = np.cumsum([row.virtual_s or 0.0 for row in rows])
    joules = np.cumsum([sum(row.joules.values()) for row in rows])
    kept = [i for i, row in enumerate(rows) if row.accuracy is not None]
    return Curve(
        [rows[i].round + 1 for i in kept],
        [float(rows[i].accuracy or 0.0) for i in kept],
        megabytes[kept].tolist(),
        seconds[kept].tolist(),
        joules[kept].tolist(),
    )


Curves = Mapping[str, Curve | Sequence[Curve]]
"""Curves by label; several under one label are its seeds, drawn as their mean and range."""


def draw_curves(found: Mapping[str, Sequence[Curve]], folder: Path) -> None:
    """Accuracy by round and by all that the runs spent."""
    accuracy_by_round(found, folder / "accuracy-by-round.png")
    every = [curve for given in found.values() for curve in given]
    for amount in AMOUNTS:
        # Runs without a world have no seconds; a lone local method sends nothing.
        if any(sum(getattr(curve, amount)) for curve in every):
            accuracy_by(amount, found, folder / f"accuracy-by-{amount[:-1]}.png")


def accuracy_by_round(curves: Curves, path: Path) -> None:
    """Accuracy of the aggregated model after each round."""
    from matplotlib.ticker import MaxNLocator

    with new_figure(path) as figure:
        axes = figure.subplots()
        drawn: list[_Drawn] = []
        for index, (label, rounds, _, accuracy) in enumerate(means(curves, "megabytes")):
            _line(axes, index, label, rounds, accuracy, drawn)
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        _finish(figure, axes, "Accuracy by round", curves)


def accuracy_by(amount: Amount, curves: Curves, path: Path) -> None:
    """Accuracy against bytes, seconds or joules so far; a method that spends none is level."""
    found = means(curves, amount)
    totals = [float(spent[-1]) for _, _, spent, _ in found if spent[-1] > 0]
    with new_figure(path) as figure:
        axes = figure.subplots()
        if totals and max(totals) > 8 * min(totals):
            axes.set_xscale("log")
        drawn: list[_Drawn] = []
        for index, (label, _, spent, accuracy) in enumerate(found):
            if spent[-1] > 0:
                started = spent > 0  # a log axis has no place for an evaluation before round 1
                _line(axes, index, label, spent[started], accuracy[:, started], drawn)
            else:
                axes.axhline(
                    100 * accuracy.mean(axis=0)[-1],
                    color=GREY,
                    linestyle=LINES[1 + index % (len(LINES) - 1)],
                    label=f"{label} (none)",
                )
        plain_log(axes)
        text, title = AMOUNTS[amount]
        axes.set_xlabel(text)
        _finish(figure, axes, title, curves)


def means(
    curves: Curves, amount: Amount
) -> list[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """For each label: rounds all seeds have, mean amount spent, and accuracy [seeds, rounds]."""
    found = []
    for label, given in curves.items():
        seeds = [given] if isinstance(given, Curve) else list(given)
        rounds = sorted(set.intersection(*(set(seed.rounds) for seed in seeds))) if seeds else []
        if not rounds:
            continue
        picks = [[list(seed.rounds).index(number) for number in rounds] for seed in seeds]
        spent = np.array(
            [np.take(getattr(s, amount), pick) for s, pick in zip(seeds, picks, strict=True)]
        )
        accuracy = np.array(
            [np.take(s.accuracy, pick) for s, pick in zip(seeds, picks, strict=True)]
        )
        found.append((label, np.array(rounds), spent.mean(axis=0), accuracy))
    return found


_Drawn = tuple[str, npt.NDArray[np.float64] | npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""The label of a line, its x [rounds] and its accuracy [seeds, rounds]."""


def _line(
    axes: Axes,
    index: int,
    label: str,
    x: npt.NDArray[np.float64] | npt.NDArray[np.int64],
    accuracy: npt.NDArray[np.float64],
    drawn: list[_Drawn],
) -> None:
    """Draw a line and its band; one that lies on another is thinner, and its label names that."""
    under = [
        other
        for other, *there in drawn
        if np.array_equal(there[0], x) and np.array_equal(there[1], accuracy)
    ]
    drawn.append((label, x, accuracy))
    colour = COLOURS[index % len(COLOURS)]
    axes.plot(
        x,
        100 * accuracy.mean(axis=0),
        color=colour,
        marker=MARKERS[index % len(MARKERS)],
        linestyle=(0, (2, 4)) if under else LINES[index % len(LINES)],
        markersize=3.5 if under else 6,
        markeredgecolor="white",
        linewidth=1.2 if under else 1.8,
        markevery=max(1, len(x) // 12),
        label=f"{label} (equal to {under[0]})" if under else label,
    )
    if len(accuracy) > 1 and not under:
        axes.fill_between(
            x,
            100 * accuracy.min(axis=0),
            100 * accuracy.max(axis=0),
            color=colour,
            alpha=0.18,
            linewidth=0,
        )


def _finish(figure: Figure, axes: Axes, title: str, curves: Curves) -> None:
    seeds = max((1 if isinstance(g, Curve) else len(g) for g in curves.values()), default=1)
    axes.set_ylabel("accuracy (%)")
    axes.set_title(title + (f" (mean and range of {seeds} seeds)" if seeds > 1 else ""), loc="left")
    legend(figure)
