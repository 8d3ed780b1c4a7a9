"""Samples as a source finds them: raw labels, and a function that reads each input when needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from cutlayer.data.images import Item, Pixels
from cutlayer.errors import DataError
from cutlayer.passage import mended

if TYPE_CHECKING:
    from cutlayer.data.dataset import Indices

_MOST_SPREAD = 64


@dataclass(frozen=True)
class Rows:
    """The rows of one split.

    origin: its name in errors.
    labels: raw, as stored.
    cell(i): the input of row i: an `images.Pixels`, a text (if `text`), a Passage (if `passages`).
    names: the names of the classes, where the source gives them; labels are names or indices.
    order: the rule by which the classes are ordered, in words.
    called(i): the name of row i in errors, its number by default.
    notes: what was skipped or changed, and why.
    """

    origin: str
    labels: Sequence[object]
    cell: Callable[[int], Any]
    text: bool = False
    names: tuple[str, ...] | None = None
    order: str = ""
    called: Callable[[int], str] | None = None
    notes: tuple[str, ...] = ()
    passages: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, i: int) -> str:
        """What to call row i in errors."""
        return self.called(i) if self.called else f"{self.origin}, row {i + 1},"

    def items(self, indices: Indices) -> Sequence[Item]:
        """The images at `indices`, not yet read."""
        return _Items(self, indices)

    def stored_bytes(self, indices: Indices) -> int | None:
        """Bytes of the files that the images at `indices` are stored in, by those of some of them;
        None where they are texts, or no files of images."""
        if self.text or self.passages:
            return None
        sizes = [_file_size(self.cell(int(i))) for i in indices[spread(len(indices))]]
        known = [size for size in sizes if size is not None]
        if not known or len(known) < len(sizes):
            return None
        return round(sum(known) / len(known) * len(indices))

    def texts(self, indices: Indices) -> tuple[list[str], int]:
        """The texts at `indices`, and how many of them were mended.

        Half of a surrogate pair, which is no character, is replaced by U+FFFD. Raises DataError
        naming the first row that is not a text.
        """
        found, replaced = [], 0
        for i in indices.tolist():
            text = self.cell(i)
            if not isinstance(text, str):
                raise DataError(f"{self.name(i)} holds {text!r} where a text is due: remove it")
            whole = mended(text)
            replaced += whole != text
            found.append(whole)
        return found, replaced


def spread(samples: int, most: int = _MOST_SPREAD) -> Indices:
    """The numbers of those of so many samples that stand for all: at most `most`, evenly spread."""
    return np.linspace(0, samples - 1, min(most, samples)).round().astype(np.int64)


def _file_size(pixels: Pixels) -> int | None:
    """Bytes of an image's file; None for pixels that are in none."""
    if isinstance(pixels, Path):
        return pixels.stat().st_size
    return len(pixels) if isinstance(pixels, bytes) else None


class _Items(Sequence[Item]):
    """Images of rows, read when they are asked for; only their indices are in memory."""

    def __init__(self, rows: Rows, indices: Indices) -> None:
        self._rows, self._indices = rows, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        if isinstance(place, slice):
            return _Items(self._rows, self._indices[place])
        row = int(self._indices[place])
        return self._rows.name(row), partial(self._rows.cell, row)
