"""Accuracy by round, byte, second and joule, and the training loss, for one run or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cutlayer.drawing.curves import Amount, Curve, means
from cutlayer.reports.views.pack import View, plain, spread
from cutlayer.reports.views.runs import Line

AXES: dict[str, tuple[str, str]] = {
    "rounds": ("By round", "round"),
    "megabytes": ("By megabyte", "sent up and down so far (MB)"),
    "seconds": ("By second", "seconds so far in the job's world"),
    "joules": ("By joule", "spent by all devices so far (J)"),
}
_AMOUNTS: tuple[Amount, ...] = ("megabytes", "seconds", "joules")
_POINTS = 400


def curves(lines: Sequence[Line]) -> View:
    """One chart for each thing that was spent; the seeds of a line are its mean and range."""
    given = {line.label: [run.curve for run in line.runs] for line in lines}
    charts = [_accuracy("rounds", given)]
    for amount in _AMOUNTS:
        every = [curve for found in given.values() for curve in found]
        if any(sum(getattr(curve, amount)) for curve in every):
            charts.append(_accuracy(amount, given))
    charts.append(_loss(lines))
    seeds = max(len(line.runs) for line in lines)
    return {
        "kind": "curves",
        "id": "curves",
        "title": "Accuracy" if len(lines) == 1 else "Accuracy, side by side",
        "text": "Of the aggregated model on the held-out set, each time it was evaluated."
        + (" A line is the mean of its seeds, the band their range." if seeds > 1 else ""),
        # A run that was not evaluated yet has no accuracy to draw.
        "data": {"charts": plain([chart for chart in charts if chart["series"]])},
    }


def _accuracy(axis: str, given: dict[str, list[Curve]]) -> dict[str, Any]:
    """A chart of accuracy in percent; a line that spends nothing of the axis is level."""
    amount: Amount = "megabytes" if axis == "rounds" else axis  # type: ignore[assignment]
    title, label = AXES[axis]
    series: list[dict[str, Any]] = []
    for name, rounds, spent, accuracy in means(given, amount):
        picked = spread(range(len(rounds)), _POINTS)
        x = rounds if axis == "rounds" else spent
        percent = 100 * accuracy[:, picked]
        if axis != "rounds" and not x[-1]:
            series.append({"label": f"{name} (none)", "level": percent.mean(axis=0)[-1]})
            continue
        series.append(_series(name, x[picked], percent))
    last = [one["x"][-1] for one in series if "x" in one]
    return {
        "title": title,
        "x": label,
        "y": "accuracy (%)",
        "log": axis != "rounds" and bool(last) and max(last) > 8 * min(last) > 0,
        "whole": axis == "rounds",
        "series": series,
    }


def _loss(lines: Sequence[Line]) -> dict[str, Any]:
    """The mean training loss of each round."""
    series = []
    for line in lines:
        rounds = min(len(run.rows) for run in line.runs)
        picked = spread(range(rounds), _POINTS)
        losses = np.array([[run.rows[i].loss for i in picked] for run in line.runs])
        numbers = np.array([line.runs[0].rows[i].round + 1 for i in picked])
        series.append(_series(line.label, numbers, losses))
    return {
        "title": "Training loss by round",
        "x": "round",
        "y": "loss",
        "log": False,
        "whole": True,
        "series": series,
    }


def _series(label: str, x: Any, values: Any) -> dict[str, Any]:
    """values [seeds, points] as their mean, with their range where there are several."""
    series = {"label": label, "x": x, "y": values.mean(axis=0)}
    if len(values) > 1:
        series |= {"low": values.min(axis=0), "high": values.max(axis=0)}
    return series
