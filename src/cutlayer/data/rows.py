"""Samples as a source finds them: raw labels, and a way to get the input of each when needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cutlayer.data.dataset import Indices
from cutlayer.data.images import Item
from cutlayer.errors import DataError


@dataclass(frozen=True)
class Rows:
    """One split.

    origin: what to call it in errors. labels: raw, as stored. cell(i): the input of row i, an
    `images.Pixels` or a text. names: the classes' names when labels are indices into them.
    called(i): what to call row i in errors; its number by default.
    """

    origin: str
    labels: Sequence[object]
    cell: Callable[[int], Any]
    text: bool = False
    names: tuple[str, ...] | None = None
    called: Callable[[int], str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, i: int) -> str:
        """What to call row i in errors."""
        return self.called(i) if self.called else f"{self.origin}, row {i + 1},"

    def items(self, indices: Indices) -> list[Item]:
        """The images at `indices`, not yet read."""
        return [(self.name(int(i)), partial(self.cell, int(i))) for i in indices]

    def texts(self, indices: Indices) -> list[str]:
        """The texts at `indices`; DataError names the first that is none."""
        found = []
        for i in indices.tolist():
            text = self.cell(i)
            if not isinstance(text, str):
                raise DataError(f"{self.name(i)} holds {text!r} where a text is due: remove it")
            found.append(text)
        return found

    def label(self, i: int) -> str:
        """The class name of row i: 3 and 3.0 are "3"; DataError if it is missing or no class."""
        value = self.labels[i]
        missing = (
            value is None
            or (isinstance(value, float) and math.isnan(value))
            or (isinstance(value, str) and value.strip().lower() in ("", "nan"))
        )
        if missing:
            raise DataError(
                f"{self.name(i)} has no label ({value!r}): fill it in or remove the row"
            )
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, str | int | np.integer):
            raise DataError(
                f"{self.name(i)} has the label {value!r}, which names no class: "
                "labels are texts or whole numbers"
            )
        if self.names is None or isinstance(value, str):
            return str(value)
        if not 0 <= value < len(self.names):
            raise DataError(
                f"{self.name(i)} has the label {value}, outside the {len(self.names)} named "
                "classes (-1 often marks a split without labels): name another split or file in "
                "data.test_path, or remove the row"
            )
        return self.names[int(value)]


def class_order(rows: Rows, labels: Sequence[str]) -> tuple[str, ...]:
    """The classes that occur: in the order of `rows.names`, else by number, else by alphabet."""
    present = set(labels)
    if rows.names is not None and present <= set(rows.names):
        return tuple(name for name in dict.fromkeys(rows.names) if name in present)
    try:
        return tuple(sorted(present, key=lambda label: (int(label), label)))
    except ValueError:
        return tuple(sorted(present))


def numbered(rows: Rows, labels: Sequence[str], classes: tuple[str, ...]) -> Indices:
    """Labels as int64 indices into `classes`; DataError names the first that is not among them."""
    number = {name: index for index, name in enumerate(classes)}
    for i, label in enumerate(labels):
        if label not in number:
            known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise DataError(
                f"{rows.name(i)} has the label {label!r}, which no training sample has "
                f"({known}): remove it or add it to the training data"
            )
    return np.array([number[label] for label in labels], dtype=np.int64)
