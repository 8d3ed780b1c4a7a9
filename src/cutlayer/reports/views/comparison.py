"""Several runs side by side: a table with the best marked, and accuracy against bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean
from typing import Any

from cutlayer.drawing.plots import Point, pareto_front
from cutlayer.record.data_file import FORMATS
from cutlayer.reports.views.finding import DIFFER_BELOW, finding
from cutlayer.reports.views.pack import View, plain
from cutlayer.reports.views.runs import Line, Run, differing
from cutlayer.reports.views.statistics import LEAST, PAIRED, against_best


@dataclass(frozen=True)
class Column:
    """A column of the table: a number of each run, and which is the best of the lines.

    note: what the title leaves open.
    """

    key: str
    title: str
    best: str
    value: Callable[[Run], float | None]
    decimals: int | None = None
    note: str = ""


def columns_of(lines: Sequence[Line], reference: Line | None = None) -> list[Column]:
    """The columns of the table, those included that no run has a value of."""
    target = _target(lines)
    columns = [
        Column("accuracy", "accuracy (%)", "most", lambda run: _percent(run.accuracy), 1),
        Column(
            "through",
            "through the cut (%)",
            "most",
            lambda run: _percent(run.rows[-1].accuracy_through_cut),
            1,
            "accuracy with the tokens and bits that cross the cut",
        ),
        Column("up", "up (MB)", "least", lambda run: run.up_bytes / 1e6),
        Column("down", "down (MB)", "least", lambda run: run.down_bytes / 1e6),
        Column("total", "in all (MB)", "least", lambda run: (run.up_bytes + run.down_bytes) / 1e6),
        *(
            Column(
                key,
                f"over {name} (x)",
                "least",
                partial(_over_data, name=key),
                note=f"bytes in all over those of the training samples themselves as {name}",
            )
            for key, name in FORMATS.items()
        ),
        Column("seconds", "in its world (s)", "least", lambda run: run.virtual_s),
        Column(
            "target",
            "to target (s)",
            "least",
            lambda run: _to_target(run, target),
            note=f"seconds of the job's world until accuracy was {100 * target:.1f} %"
            if target is not None
            else "",
        ),
        Column("joules", "devices (J)", "least", lambda run: run.joules),
        Column("ste", "STE (1/s)", "most", _efficiency),
        Column("dropped", "turns dropped", "least", lambda run: run.dropped, 0),
    ]
    if reference is not None:
        columns.insert(
            5, Column("saving", "saving (x)", "most", lambda run: _saving(run, reference))
        )
    return columns


def table(lines: Sequence[Line], reference: Line | None = None) -> View:
    """Means and ranges over seeds, the best of each column, and how sure the order is."""
    rows: list[dict[str, Any]] = []
    for line in lines:
        seeds = [run.job.seed for run in line.runs]
        rounds = {len(run.rows) for run in line.runs}
        rows.append({"label": line.label, "seeds": seeds, "rounds": max(rounds)})
    shown = []
    for column in columns_of(lines, reference):
        cells = [[column.value(run) for run in line.runs] for line in lines]
        found = [_mean(cell) for cell in cells]
        present = [value for value in found if value is not None]
        if not present or (column.key == "dropped" and not any(present)):
            continue
        top = max(present) if column.best == "most" else min(present)
        shown.append({"key": column.key, "title": column.title, "decimals": column.decimals})
        alike = len(set(present)) == 1
        for row, cell, value in zip(rows, cells, found, strict=True):
            numbers = [one for one in cell if one is not None]
            row[column.key] = {
                "mean": value,
                "low": min(numbers, default=None),
                "high": max(numbers, default=None),
                "best": value == top and not alike,
            }
    for row, (order, sentence) in zip(rows, _verdicts(lines), strict=True):
        row["verdict"] = {"order": order, "text": sentence}
    return {
        "kind": "comparison",
        "id": "comparison",
        "title": "Side by side",
        "text": "Mean over seeds, with the range where they differ; the best of each column is "
        "marked.",
        "data": {
            "columns": plain(shown),
            "rows": plain(rows),
            "finding": finding([(line.label, accuracies_of(line)) for line in lines]),
            "notes": _notes(lines, _target(lines), reference),
        },
    }


def pareto(lines: Sequence[Line]) -> View | None:
    """Bytes against accuracy, with the front of those that no other beats in both."""
    points = []
    for line in lines:
        total = mean(run.up_bytes + run.down_bytes for run in line.runs)
        accuracy = _mean([run.accuracy for run in line.runs])
        if accuracy is not None and total > 0:
            points.append(Point(line.label, total, accuracy))
    if len(points) < 2:
        return None
    front = pareto_front(points)
    beaten = [point.label for point in points if point not in front]
    return {
        "kind": "pareto",
        "id": "pareto",
        "title": "Accuracy against bytes",
        "text": "The front joins the runs that no other beats in both"
        + (f"; beaten: {', '.join(beaten)}." if 0 < len(beaten) < 6 else "."),
        "data": {
            "points": [
                {
                    "label": point.label,
                    "x": plain(point.bytes / 1e6),
                    "y": plain(100 * point.accuracy),
                    "front": point in front,
                    "line": next(i for i, one in enumerate(lines) if one.label == point.label),
                }
                for point in points
            ],
        },
    }


def accuracies_of(line: Line) -> dict[int, float]:
    """The accuracy of each run after its last round, by seed."""
    return {run.job.seed: run.accuracy for run in line.runs if run.accuracy is not None}


def _verdicts(lines: Sequence[Line]) -> list[tuple[float, str]]:
    """How the accuracy of each line compares with the best line's: for sorting, and in words."""
    accuracy = [accuracies_of(line) for line in lines]
    top, tests = against_best(accuracy)
    verdicts = []
    for i, found in enumerate(accuracy):
        if not found:
            verdicts.append((3.0, "not measured yet"))
        elif i == top:
            verdicts.append((-1.0, "the highest"))
        elif i not in tests:
            few = min(len(found), len(accuracy[top]))
            verdicts.append((2.0, f"unknown: {few} seed{'s' * (few != 1)}"))
        else:
            p, name = tests[i]
            said = "lower" if p < DIFFER_BELOW else "not told apart"
            test = "" if name == PAIRED else f"{name}, "
            verdicts.append((p, f"{said} ({test}p {'< 0.001' if p < 0.001 else f'= {p:.2g}'})"))
    return verdicts


def _notes(lines: Sequence[Line], target: float | None, reference: Line | None) -> list[str]:
    notes = []
    tested = sum(len(line.runs) >= LEAST for line in lines)
    if tested >= 2:
        notes.append(
            "Against the highest: is the difference in accuracy more than that of seeds? Two-sided "
            "t-tests, paired by seed where three or more seeds are in both (a seed fixes data, "
            "devices and world), Welch's else; p adjusted for several lines (Holm), told apart "
            "below 0.05. They take seeds' accuracies to be about normal."
        )
    else:
        notes.append(
            f"How sure the order is cannot be said with fewer than {LEAST} seeds a line: run the "
            "same job with other seeds (--set seed=1) and report them together."
        )
    if target is not None:
        notes.append(
            f"To target: until {100 * target:.1f} %, the highest accuracy that every run reached, "
            "was first measured."
        )
    every = {run.test_samples for line in lines for run in line.runs}
    sizes = sorted(size for size in every if size is not None)
    if sizes:
        notes.append(f"Accuracies are of {', '.join(f'{n:,}' for n in sizes)} test samples.")
    if any(run.own_bytes for line in lines for run in line.runs):
        notes.append(
            "Over JPEG, WebP, text, stored files: a run's bytes over those of all its training "
            "samples, sent themselves once (images at the model's size, quality 75; texts under "
            "zstandard; images in the files that they came in)."
        )
    if reference is not None:
        notes.append(f"Saving: bytes of {reference.label} over a run's.")
    unlike = _unlike(lines)
    if unlike:
        notes.insert(
            0,
            f"Not one task: the runs differ in {', '.join(unlike)}, so their accuracies are not "
            "those of one problem.",
        )
    unfinished = [
        f"{run.name} ({len(run.rows)} of {run.job.training.rounds})"
        for line in lines
        for run in line.runs
        if not run.over
    ]
    if unfinished:
        notes.insert(0, f"Not finished: {', '.join(unfinished)} rounds.")
    return notes


def _unlike(lines: Sequence[Line]) -> list[str]:
    """Settings outside the method that change what is learned or from what."""
    found = differing([line.job for line in lines])
    return [
        path for path in found if path.startswith(("data.", "devices.", "model.path", "world."))
    ]


def _target(lines: Sequence[Line]) -> float | None:
    """The highest accuracy that every run reached at some time."""
    highest = [max(run.curve.accuracy, default=None) for line in lines for run in line.runs]
    found = [value for value in highest if value is not None]
    return min(found) if found and len(found) == len(highest) else None


def _to_target(run: Run, target: float | None) -> float | None:
    if target is None or run.virtual_s is None:
        return None
    return run.curve.amount_at(target, "seconds")


def _saving(run: Run, reference: Line) -> float | None:
    """Bytes of the reference run (of the same seed where there is one) divided by this run's."""
    same = [one for one in reference.runs if one.job.seed == run.job.seed] or reference.runs
    total = run.up_bytes + run.down_bytes
    return mean(one.up_bytes + one.down_bytes for one in same) / total if total else None


def _over_data(run: Run, name: str) -> float | None:
    """Bytes of the run divided by the bytes of its training samples, sent once as they are."""
    own = run.own_bytes.get(name)
    return (run.up_bytes + run.down_bytes) / own if own else None


def _efficiency(run: Run) -> float | None:
    return _mean([row.ste for row in run.rows])


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return mean(found) if found else None
