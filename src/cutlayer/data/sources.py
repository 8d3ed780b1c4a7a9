"""Where samples come from: load() turns a job's data section into a train and a test Dataset.

All sources follow the same rules. splits.py finds the splits. Classes are those of the training
labels, in the order of the source's own class names, else numbers by value, else texts by
alphabet; labels become 0..C-1. Images are held at the size that the model reads, or decoded only
when they are needed where that takes too much memory; they are grey only if all are. Without test
data, a seeded fifth of every class of the training data is held out. The report of both data sets
says what was found and what was left out.
"""

from __future__ import annotations

import importlib.resources
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cutlayer.data import hub, images
from cutlayer.data.dataset import Dataset, Indices, holdout, stratified
from cutlayer.data.images import Item
from cutlayer.data.labels import class_names, class_order, numbered
from cutlayer.data.reading import READERS, held_inputs, read_own
from cutlayer.data.report import LoadReport
from cutlayer.data.rows import Rows, spread
from cutlayer.data.stored_images import StoredImages
from cutlayer.data.viewing import Depths
from cutlayer.errors import DataError
from cutlayer.passage import Passage
from cutlayer.resize import Fit
from cutlayer.seeds import numpy_rng
from cutlayer.settings.data import HELD_OUT as HELD_OUT_NAME
from cutlayer.settings.data import Data

HELD_OUT = 0.2
"""Share of every class held out for testing when a source has no test data."""

CALIBRATION, CALIBRATION_MOST = 0.1, 1000
"""Share of every class of the training data that is held out to calibrate on; at most
CALIBRATION_MOST samples in all."""

SOURCES = {
    "demo": "the bundled subset of Fashion-MNIST: 28 x 28 grey images of 10 classes",
    "hub": "a Hugging Face dataset: data.path is `name`, `name:configuration` or a local folder",
    "parquet": "images ({bytes, path}, bytes or paths) or texts: a file, or a folder of splits",
    "folder": "images, one subfolder a class, with or without train/ and test/ above or below",
    "table": "texts, passages or paths of images in CSV, TSV or JSON lines: a file, or a folder of "
    "splits",
}
"""What data.source may be, and what each of them reads. data.test_path names separate test data
(for hub: a split)."""


def load(data: Data, seed: int, fit: Fit | None = None) -> tuple[Dataset, Dataset]:
    """Read the training and the test samples that `data` names; both carry the load's report.

    `train_samples` / `test_samples` take a class-stratified part; it and the held-out fifth
    depend on `seed` only. fit: how a model resizes and crops images (None: all images get their
    median size).
    Raises DataError for anything missing, unreadable or inconsistent.
    """
    chosen = _choose(data, seed)
    train, test = chosen.train, chosen.test
    wanted = [(train, chosen.index), (test, chosen.test_index)]
    (inputs, test_inputs), notes = _inputs(wanted, fit, data.memory_bytes)
    report = LoadReport(
        train.origin,
        len(chosen.index),
        chosen.classes,
        chosen.order,
        chosen.tested_on,
        len(chosen.test_index),
        tuple(dict.fromkeys((*train.notes, *test.notes, *notes))),
        train.stored_bytes(chosen.index),
    )
    return (
        Dataset(inputs, chosen.labels, chosen.classes, report=report),
        Dataset(test_inputs, chosen.test_labels, chosen.classes, report=report),
    )


def load_calibration(data: Data, seed: int, fit: Fit | None = None) -> Dataset:
    """The samples to calibrate on: a held-out part of the training data, or data of their own.

    The held-out part does not depend on `train_samples`, nor on `seed` where the source has test
    data. Raises DataError.
    """
    chosen = _choose(data.model_copy(update={"train_samples": None}), seed)
    if data.calibration not in (None, HELD_OUT_NAME):
        own = data.model_copy(update={"path": data.calibration, "test_path": None})
        try:
            return load_own(own, chosen.classes, fit)
        except DataError as error:
            said = str(error)
            named = said.replace("data.path", "data.calibration")
            raise DataError(
                named if named != said else f"data.calibration={data.calibration!r}: {said}"
            ) from None
    index = _calibration(chosen.train_labels, chosen.every)
    if not len(index):
        raise DataError(
            f"{chosen.train.origin} has too few samples to hold a tenth of each class out to "
            "calibrate on: name data for it in data.calibration"
        )
    (inputs,), notes = _inputs([(chosen.train, index)], fit, data.memory_bytes)
    report = LoadReport(chosen.train.origin, len(index), chosen.classes, chosen.order, notes=notes)
    return Dataset(inputs, chosen.train_labels[index], chosen.classes, report=report)


def _calibration(labels: Indices, index: Indices) -> Indices:
    """Those of the training samples `index` that are held out to calibrate on."""
    rng = numpy_rng(0, "data", "calibration")
    held = holdout(labels[index], CALIBRATION, rng)
    if len(held) > CALIBRATION_MOST:
        held = held[stratified(labels[index][held], CALIBRATION_MOST, rng)]
    return index[held]


def load_some(data: Data, seed: int, fit: Fit | None = None) -> tuple[Dataset, int]:
    """As many of the training samples of `load` as tell how large they are, and how many there are:
    all texts, and 64 images. Raises DataError.
    """
    chosen = _choose(data, seed)
    some = np.arange(len(chosen.index))
    if not (chosen.train.text or chosen.train.passages):
        some = spread(len(some))
    index = chosen.index[some]
    (inputs,), notes = _inputs([(chosen.train, index)], fit, data.memory_bytes)
    report = LoadReport(
        chosen.train.origin,
        len(index),
        chosen.classes,
        chosen.order,
        notes=notes,
        stored_bytes=chosen.train.stored_bytes(index),
    )
    return Dataset(inputs, chosen.labels[some], chosen.classes, report=report), len(chosen.index)


def training_labels(data: Data, seed: int) -> tuple[Indices, tuple[str, ...]]:
    """The labels of the training samples of `load`, and the classes; no image is decoded.

    Raises DataError.
    """
    chosen = _choose(data, seed)
    return chosen.labels, chosen.classes


@dataclass(frozen=True, eq=False)
class _Chosen:
    """Which rows are trained and tested on, with their labels.

    index: of the rows of `train` that are trained on; labels: of these. test_index, test_labels:
    the same of `test`. order: the rule by which classes are ordered, in words. tested_on: what to
    call the test samples. every: the training rows before some are held out to calibrate on and a
    part is taken. train_labels: of all rows of `train`.
    """

    train: Rows
    index: Indices
    labels: Indices
    test: Rows
    test_index: Indices
    test_labels: Indices
    classes: tuple[str, ...]
    order: str
    tested_on: str
    every: Indices
    train_labels: Indices


def _choose(data: Data, seed: int) -> _Chosen:
    """Which samples `data` names, by their labels alone; see `load`."""
    train, test = _READERS[data.source](data)
    for rows in (train, test):
        if rows is not None and not len(rows):
            raise DataError(f"{rows.origin} holds no samples: name data that has some")
    names = class_names(train)
    classes, order = class_order(train, names)
    if len(classes) < 2 and not train.passages:
        raise DataError(
            f"{train.origin} holds the single class {classes[0]!r}: training needs two or more"
        )
    labels = numbered(train, names, classes)
    index = np.arange(len(train))
    if test is None:
        tested_on = "a held-out fifth of every class"
        test, test_labels = train, labels
        test_index = holdout(labels, HELD_OUT, numpy_rng(seed, "data", "holdout"))
        if not len(test_index):
            raise DataError(
                f"{train.origin} has no test split and {len(train)} samples are too few to hold "
                "a fifth of each class out: name test data in data.test_path"
            )
        index = np.setdiff1d(index, test_index)
    else:
        tested_on = test.origin
        test_labels = numbered(test, class_names(test), classes)
        test_index = np.arange(len(test))
    every = index
    if data.calibration == HELD_OUT_NAME:
        index = np.setdiff1d(index, _calibration(labels, index))
    if data.train_samples is not None and data.train_samples < len(classes):
        raise DataError(
            f"data.train_samples={data.train_samples} leaves some of the {len(classes)} classes "
            f"out: take at least {len(classes)}"
        )
    index = _part(labels, index, data.train_samples, "train_samples", seed)
    test_index = _part(test_labels, test_index, data.test_samples, "test_samples", seed)
    return _Chosen(
        train,
        index,
        labels[index],
        test,
        test_index,
        test_labels[test_index],
        classes,
        order,
        tested_on,
        every,
        labels,
    )


def load_own(data: Data, classes: tuple[str, ...], fit: Fit | None = None) -> Dataset:
    """All training samples that `data` names, labelled by classes that are known already.

    fit: how the model resizes and crops images. Raises DataError.
    """
    holder = _Holder(fit, data.memory_bytes)
    own = read_own(_READERS[data.source](data), classes, fit, holder)
    report = replace(own.report, notes=(*own.report.notes, *holder.notes))
    return Dataset(own.inputs, own.labels, classes, report=report)


class _Holder:
    """A reading.Hold that keeps images in memory; if they take more than memory_bytes and a model
    reads them, it decodes them from their files when they are needed. notes: says so, for people.
    """

    def __init__(self, fit: Fit | None, memory_bytes: int) -> None:
        self._fit, self._most = fit, memory_bytes
        self.notes: list[str] = []

    def __call__(
        self,
        origin: str,
        items: Sequence[Item],
        size: tuple[int, int] | Fit,
        grey: bool,
        depths: Depths,
        strange: Counter[str],
    ) -> torch.Tensor | StoredImages:
        stored = StoredImages(items, size, grey, depths)
        if self._fit is None or stored.shape.numel() <= self._most:
            return images.stack(items, size, grey, depths, strange)
        self.notes.append(f"{len(items):,} images of {origin} are decoded when they are needed")
        return stored


Inputs = torch.Tensor | StoredImages | list[str] | list[Passage]


def _inputs(
    parts: list[tuple[Rows, Indices]], fit: Fit | None, memory_bytes: int
) -> tuple[list[Inputs], tuple[str, ...]]:
    """The samples of each part, and notes for people on them; see `reading.held_inputs`."""
    holder = _Holder(fit, memory_bytes)
    found, notes = held_inputs(parts, fit, holder)
    return [*found], (*notes, *holder.notes)


def _part(labels: Indices, index: Indices, size: int | None, field: str, seed: int) -> Indices:
    if size is None:
        return index
    if size > len(index):
        raise DataError(
            f"data.{field}={size} is more than the {len(index)} there are: "
            f"take at most {len(index)}, or leave it out for all"
        )
    return index[stratified(labels[index], size, numpy_rng(seed, "data", field))]


def _demo(data: Data) -> tuple[Rows, Rows]:
    if data.path or data.test_path:
        raise DataError(
            f"data.path={data.path or data.test_path!r} has no effect with data.source='demo': "
            "take source hub, parquet, folder or table, or leave the path out"
        )
    file = importlib.resources.files("cutlayer.assets") / "fashion-mnist.npz"
    if not file.is_file():
        raise DataError(f"the bundled {file} is missing: reinstall cutlayer")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        names = tuple(str(name) for name in arrays["classes"])
        train, test = (
            Rows(
                f"demo {split}",
                arrays[f"{split}_labels"].tolist(),
                list(arrays[f"{split}_images"]).__getitem__,
                names=names,
            )
            for split in ("train", "test")
        )
    return train, test


_READERS: dict[str, Callable[[Data], tuple[Rows, Rows | None]]] = {
    "demo": _demo,
    "hub": hub.read,
    **READERS,
}
