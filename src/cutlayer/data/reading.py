"""Reads the rows of a source, as images, texts or passages: without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from cutlayer.data import folders, images, tables, viewing
from cutlayer.data.below import files_below
from cutlayer.data.delimited import SUFFIXES
from cutlayer.data.images import Item
from cutlayer.data.labels import class_names, numbered
from cutlayer.data.report import LoadReport
from cutlayer.data.rows import Rows
from cutlayer.data.source_settings import SourceSettings
from cutlayer.data.viewing import Depths
from cutlayer.errors import DataError
from cutlayer.passage import Passage
from cutlayer.resize import Fit

if TYPE_CHECKING:
    from cutlayer.data.dataset import Indices

Pictures = TypeVar("Pictures")
"""Type of images in memory: an array [n, C, H, W] on a light device, else see `data.sources`."""


Hold = Callable[[str, Sequence[Item], tuple[int, int] | Fit, bool, Depths, Counter[str]], Pictures]
"""A function that reads the images of one source into memory. It takes the source's name, then
items, size, grey, depths and strange as `images.stack` does. Raises DataError."""


def as_arrays(
    origin: str,
    items: Sequence[Item],
    size: tuple[int, int] | Fit,
    grey: bool,
    depths: Depths,
    strange: Counter[str],
) -> npt.NDArray[np.uint8]:
    """A Hold that decodes and resizes all images into memory, without torch."""
    return images.stack_arrays(items, size, grey, depths, strange)


@dataclass(frozen=True, eq=False)
class OwnSamples(Generic[Pictures]):
    """The samples of one device. labels [n]: indices into the classes that the server names."""

    inputs: Pictures | list[str] | list[Passage]
    labels: Indices
    report: LoadReport


def read_own(
    found: tuple[Rows, Rows | None],
    classes: tuple[str, ...],
    fit: Fit | None,
    hold: Hold[Pictures],
) -> OwnSamples[Pictures]:
    """All training rows of a source, labelled by classes that are known already.

    found: the source's training rows and test rows. fit: how the model resizes and crops images.
    hold: reads images into memory. Raises DataError.
    """
    rows, test = found
    if not len(rows):
        raise DataError(f"{rows.origin} holds no samples: name data that has some")
    labels = numbered(rows, class_names(rows), classes)
    (inputs,), notes = held_inputs([(rows, np.arange(len(rows)))], fit, hold)
    if test is not None:
        notes = (f"not used: {test.origin} (the server tests on data of its own)", *notes)
    present = tuple(name for i, name in enumerate(classes) if i in set(labels.tolist()))
    report = LoadReport(
        rows.origin, len(rows), present, "as the server names them", notes=(*rows.notes, *notes)
    )
    return OwnSamples(inputs, labels, report)


def held_inputs(
    parts: list[tuple[Rows, Indices]], fit: Fit | None, hold: Hold[Pictures]
) -> tuple[list[Pictures | list[str] | list[Passage]], tuple[str, ...]]:
    """The samples of each part, and notes for people on what was changed in them.

    parts: rows, and the indices wanted of them; the training rows come first. The images of all
    parts get one size, and are grey only if all are.
    """
    strange: Counter[str] = Counter()
    if len({(rows.text, rows.passages) for rows, _ in parts}) > 1:
        kinds = [f"{rows.origin} holds {_kind(rows)}" for rows, _ in parts]
        raise DataError(f"{' but '.join(kinds)}: name data of one kind")
    if parts[0][0].passages:
        return [[rows.cell(int(i)) for i in index] for rows, index in parts], ()
    held: list[Pictures | list[str] | list[Passage]] = []
    if parts[0][0].text:
        for rows, index in parts:
            whole, mended = rows.texts(index)
            held.append(whole)
            strange["texts with half of a surrogate pair, now a replacement sign"] += mended
        return held, _counted(strange)
    items = [rows.items(index) for rows, index in parts]
    seen = [images.look(some) for some in items]
    size = images.held_size(seen, fit)
    grey = all(one.grey for one in seen)
    depths = seen[0].depths | {k: v for k, v in seen[-1].depths.items() if k not in seen[0].depths}
    for some, (rows, _) in zip(items, parts, strict=True):
        held.append(hold(rows.origin, some, size, grey, depths, strange))
    return held, (*viewing.described(depths), *_counted(strange))


def _kind(rows: Rows) -> str:
    if rows.passages:
        return "passages for a language model"
    return "labelled texts" if rows.text else "images"


def _counted(strange: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{count} {what}" for what, count in strange.items() if count)


def check_there(path: Path) -> None:
    """Raise DataError if there are no samples at a device's path."""
    if not path.exists():
        raise DataError(f"--data: there is no {path}: name a folder of images a class, or a table")


def kind_of_source(path: Path) -> Literal["folder", "parquet", "table"]:
    """What there is at a device's path: images in class folders, parquet files, or tables."""
    suffixes = {path.suffix.lower()}
    if path.is_dir():
        suffixes = {file.suffix.lower() for file in path.iterdir()}
        if not suffixes & {".parquet", *SUFFIXES}:
            below = {file.suffix.lower() for file in files_below(path)}
            suffixes = set() if below & images.suffixes() else below
    if ".parquet" in suffixes:
        return "parquet"
    return "table" if suffixes & set(SUFFIXES) else "folder"


def _folder(data: SourceSettings) -> tuple[Rows, Rows | None]:
    test = None if data.test_path is None else tables.existing(data.test_path, "data.test_path")
    return folders.read(tables.existing(data.path, "data.path"), test)


READERS: dict[str, Callable[[SourceSettings], tuple[Rows, Rows | None]]] = {
    "folder": _folder,
    "parquet": tables.parquet,
    "table": tables.texts,
}
"""Reads the training rows, and the test rows where there are some, of a kind of source."""
