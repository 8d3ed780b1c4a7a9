"""How well each class is recognised, and which classes are mistaken for which."""

from __future__ import annotations

import numpy as np

from cutlayer.reports.views.pack import Floats, View, pack, plain
from cutlayer.reports.views.runs import Run

_MATRIX = 100
"""Classes up to which the whole confusion matrix is drawn."""
_PAIRS = 20


def classes(run: Run) -> View:
    """Accuracy class by class after the last evaluation, and the confusion matrix once it is over.

    Rows of the matrix are true classes, columns predicted ones, cells shares of the true class.
    """
    measured = [row for row in run.rows if row.class_accuracy]
    why = ""
    if not measured:
        why = "nothing was evaluated yet, or the record is of an earlier version"
    elif len(measured[-1].class_accuracy) == 1:
        why = "the passages that the language model learns from have no labels"
    if why:
        return {
            "kind": "missing",
            "id": "classes",
            "title": "Class by class",
            "text": f"Not shown: {why}.",
        }
    row = measured[-1]
    count = len(row.class_accuracy)
    names = list(run.classes) if len(run.classes) == count else [f"class {i}" for i in range(count)]
    told = dict(zip(names, row.class_accuracy, strict=True))
    there = {name: value for name, value in told.items() if value is not None}
    worst, best = min(there, key=lambda name: there[name]), max(there, key=lambda name: there[name])
    text = (
        f"After round {row.round + 1}: {100 * there[worst]:.0f} % ({worst}) to "
        f"{100 * there[best]:.0f} % ({best}) of a class"
    )
    if row.macro_f1 is not None:
        text += f"; macro F1, the mean of F1 over classes, {100 * row.macro_f1:.1f} %"
    tested = "" if row.test_samples is None else f", on {row.test_samples:,} test samples"
    wrong = sorted((pair for pair in row.confusion if pair[0] != pair[1]), key=lambda one: -one[2])
    return {
        "kind": "classes",
        "id": "classes",
        "title": "Class by class",
        "text": f"{text}{tested}.",
        "data": {
            "names": names,
            "accuracy": plain([None if v is None else 100 * v for v in row.class_accuracy]),
            "samples": _samples(row.confusion, count),
            "matrix": pack(_shares(row.confusion, count))
            if row.confusion and count <= _MATRIX
            else None,
            "wrong": [[names[true], names[said], n] for true, said, n in wrong[:_PAIRS]],
        },
    }


def _samples(confusion: list[list[int]], count: int) -> list[int] | None:
    """Test samples of each class [C]; None in rounds without a confusion matrix."""
    if not confusion:
        return None
    held = [0] * count
    for true, _, n in confusion:
        held[true] += n
    return held


def _shares(confusion: list[list[int]], count: int) -> Floats:
    """[C, C]: of each true class (a row), the percent that each class was predicted for."""
    cells = np.zeros((count, count))
    for true, said, n in confusion:
        cells[true, said] = n
    held = cells.sum(axis=1, keepdims=True)
    shares: Floats = np.divide(100 * cells, held, out=np.zeros_like(cells), where=held > 0)
    return shares
