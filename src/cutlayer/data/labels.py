"""From labels as they are stored to names of classes, by one rule for every source."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.data.rows import Rows
from cutlayer.errors import DataError

if TYPE_CHECKING:
    from cutlayer.data.dataset import Indices

_NUMBER = re.compile(r"[+-]?(\d+\.\d*|\.\d+)")
_MISSING = ("", "nan", "<na>")


def class_names(rows: Rows) -> list[str]:
    """The class of every row: 3, 3.0, " 3" and "3.0" are all "3", true and "True" are "true".

    Names that the source gives its classes stay unchanged. Raises DataError for the first label
    that is missing or cannot name a class, such as 0.5.
    """
    known: dict[tuple[type, object], str] = {}
    names = []
    for i, value in enumerate(rows.labels):
        key = (type(value), value if isinstance(value, str | int | float) else i)
        if key not in known:
            known[key] = _class_name(rows, i)
        names.append(known[key])
    return names


def class_order(rows: Rows, labels: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The classes that occur, in order, and the rule of that order in words.

    The order is the source's own if it names its classes, else by number, else by alphabet.
    """
    present = set(labels)
    if rows.names is not None and present <= set(rows.names):
        order = rows.order or "as the source names them"
        return tuple(name for name in dict.fromkeys(rows.names) if name in present), order
    try:
        return tuple(sorted(present, key=lambda label: (int(label), label))), "by number"
    except ValueError:
        return tuple(sorted(present)), "by alphabet"


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


def _class_name(rows: Rows, i: int) -> str:
    value = rows.labels[i]
    if isinstance(value, str) and rows.names is not None and value in rows.names:
        return value
    plain = _plain(value)
    if plain is None:
        raise DataError(f"{rows.name(i)} has no label ({value!r}): fill it in or remove the row")
    if isinstance(plain, str):
        if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in plain):
            raise DataError(
                f"{rows.name(i)} has the label {value!r}, which cannot be printed: correct it"
            )
        return plain
    if not isinstance(plain, int):  # a real number, a list or a date
        raise DataError(
            f"{rows.name(i)} has the label {value!r}, which names no class: "
            "labels are texts or whole numbers"
        )
    if rows.names is None:
        return str(plain)
    if not 0 <= plain < len(rows.names):
        raise DataError(
            f"{rows.name(i)} has the label {plain}, outside the {len(rows.names)} named "
            "classes (-1 often marks a split without labels): name another split or file in "
            "data.test_path, or remove the row"
        )
    return rows.names[plain]


def _plain(value: object) -> object:
    """A label as a text or a whole number; None if it is missing; anything else unchanged."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        value = unicodedata.normalize("NFC", value.strip())
        if value.lower() in _MISSING:
            return None
        if value.lower() in ("true", "false"):
            return value.lower()
        if not _NUMBER.fullmatch(value):
            return value
        value = Decimal(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        number = Decimal(value)
        if number.is_nan():
            return None
        whole = number.is_finite() and number == number.to_integral_value()
        return int(number) if whole else value
    return value
