"""Where samples come from: load() turns a job's data section into a train and a test Dataset.

What all sources share: classes are those of the training labels, in the order of the file's own
class names, else numbers by value, else texts by alphabet; labels become 0..C-1; images of
unequal size are resized to the training images' median height and width, and are grey only if
all are; without test data, a seeded fifth of every class of the training data is held out.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cutlayer.data import images, tables
from cutlayer.data.dataset import Dataset, Indices, holdout, stratified
from cutlayer.data.rows import Rows, class_order, numbered
from cutlayer.errors import DataError
from cutlayer.seeds import numpy_rng
from cutlayer.settings.data import Data

HELD_OUT = 0.2
"""Share of every class held out for testing when a source has no test data."""

SOURCES = {
    "demo": "the bundled subset of Fashion-MNIST: 28 x 28 grey images of 10 classes",
    "hub": "a Hugging Face dataset: data.path is `name`, `name:configuration` or a local folder",
    "parquet": "images ({bytes, path} or bytes) or texts: a file, or a folder of train*, test*",
    "folder": "images, one subfolder a class, with or without train/ and test/ above",
    "table": "texts in CSV, TSV or JSON lines: a file, or a folder of train*, test*",
}
"""What data.source may name, and what each reads; data.test_path names test data of its own
(of hub: a split)."""


def load(data: Data, seed: int) -> tuple[Dataset, Dataset]:
    """Read the training and the test samples that `data` names.

    `train_samples` / `test_samples` take a class-stratified part; it and the held-out fifth
    depend on `seed` only. Raises DataError for anything missing, unreadable or inconsistent.
    """
    chosen = _choose(data, seed)
    read = _texts if chosen.train.text else _images
    inputs, test_inputs = read(chosen.train, chosen.index, chosen.test, chosen.test_index)
    return (
        Dataset(inputs, chosen.labels, chosen.classes),
        Dataset(test_inputs, chosen.test_labels, chosen.classes),
    )


def training_labels(data: Data, seed: int) -> tuple[Indices, tuple[str, ...]]:
    """The labels of the training samples of `load`, and the classes; no image is decoded.

    Raises DataError.
    """
    chosen = _choose(data, seed)
    return chosen.labels, chosen.classes


@dataclass(frozen=True, eq=False)
class _Chosen:
    """Which rows are trained and tested on, with their labels."""

    train: Rows
    index: Indices
    labels: Indices
    test: Rows
    test_index: Indices
    test_labels: Indices
    classes: tuple[str, ...]


def _choose(data: Data, seed: int) -> _Chosen:
    """Which samples `data` names, by their labels alone; see `load`."""
    train, test = _READERS[data.source](data)
    for rows in (train, test):
        if rows is not None and not len(rows):
            raise DataError(f"{rows.origin} holds no samples: name data that has some")
    names = [train.label(i) for i in range(len(train))]
    classes = class_order(train, names)
    if len(classes) < 2:
        raise DataError(
            f"{train.origin} holds the single class {classes[0]!r}: training needs two or more"
        )
    labels = numbered(train, names, classes)
    index = np.arange(len(train))
    if test is None:
        test, test_labels = train, labels
        test_index = holdout(labels, HELD_OUT, numpy_rng(seed, "data", "holdout"))
        if not len(test_index):
            raise DataError(
                f"{train.origin} has no test split and {len(train)} samples are too few to hold "
                "a fifth of each class out: name test data in data.test_path"
            )
        index = np.setdiff1d(index, test_index)
    else:
        test_labels = numbered(test, [test.label(i) for i in range(len(test))], classes)
        test_index = np.arange(len(test))
    if data.train_samples is not None and data.train_samples < len(classes):
        raise DataError(
            f"data.train_samples={data.train_samples} leaves some of the {len(classes)} classes "
            f"out: take at least {len(classes)}"
        )
    index = _part(labels, index, data.train_samples, "train_samples", seed)
    test_index = _part(test_labels, test_index, data.test_samples, "test_samples", seed)
    return _Chosen(train, index, labels[index], test, test_index, test_labels[test_index], classes)


def load_own(data: Data, classes: tuple[str, ...], side: int) -> Dataset:
    """All training samples that `data` names, labelled by classes that are known already.

    side: images larger than these pixels a side are made that small. Raises DataError.
    """
    rows, _ = _READERS[data.source](data)
    if not len(rows):
        raise DataError(f"{rows.origin} holds no samples: name data that has some")
    labels = numbered(rows, [rows.label(i) for i in range(len(rows))], classes)
    index = np.arange(len(rows))
    if rows.text:
        return Dataset(rows.texts(index), labels, classes)
    sizes, grey = images.look(rows.items(index))
    size = images.common_size(sizes)
    if max(size) > side:
        size = (side, side)
    return Dataset(images.stack(rows.items(index), size, grey), labels, classes)


def _texts(
    train: Rows, index: Indices, test: Rows, test_index: Indices
) -> tuple[list[str], list[str]]:
    return train.texts(index), test.texts(test_index)


def _images(
    train: Rows, index: Indices, test: Rows, test_index: Indices
) -> tuple[torch.Tensor, torch.Tensor]:
    items, test_items = train.items(index), test.items(test_index)
    sizes, grey = images.look(items)
    grey = images.look(test_items)[1] and grey
    size = images.common_size(sizes)
    return images.stack(items, size, grey), images.stack(test_items, size, grey)


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
            f"data.path={data.path or data.test_path!r} is not read by data.source='demo': "
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


def _folder(data: Data) -> tuple[Rows, Rows | None]:
    root = tables.existing(data.path, "data.path")
    if not root.is_dir():
        raise DataError(f"data.path={str(root)!r} is a file: name a folder of class folders")
    test = None
    subfolders = {sub.name.lower(): sub for sub in _visible(root) if sub.is_dir()}
    inner = subfolders.get("train")
    # A class may be called "train": its folder then holds images, not class folders.
    if inner is not None and any(sub.is_dir() for sub in _visible(inner)):
        root = inner
        named = [subfolders[name] for name in ("test", "val", "validation") if name in subfolders]
        test = named[0] if named else None
    if data.test_path is not None:
        test = tables.existing(data.test_path, "data.test_path")
    return _class_folders(root), None if test is None else _class_folders(test)


def _class_folders(root: Path) -> Rows:
    known = images.suffixes()
    labels: list[object] = []
    files: list[Path] = []
    for sub in _visible(root):
        if not sub.is_dir():
            raise DataError(
                f"{sub} lies beside the class folders: remove it or put it into the folder of "
                "its class"
            )
        found = [
            file
            for file in sorted(sub.rglob("*"))
            if file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(sub).parts)
        ]
        for file in found:
            if file.suffix and file.suffix.lower() not in known:
                raise DataError(
                    f"{file} is not an image ({', '.join(images.FORMATS)}): remove it or move it "
                    "out of the class folder"
                )
        if not found:
            raise DataError(f"the class folder {sub} holds no images: fill it or remove it")
        labels += [sub.name] * len(found)
        files += found
    if not files:
        raise DataError(f"{root} holds no class folders: expected one subfolder of images a class")
    return Rows(str(root), labels, files.__getitem__, called=lambda i: str(files[i]))


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _hub(data: Data) -> tuple[Rows, Rows | None]:
    try:
        import datasets
    except ImportError:
        raise DataError(
            "data.source='hub' needs the package datasets: pip install cutlayer[datasets]"
        ) from None
    assert data.path is not None  # the job was validated
    folder = Path(data.path)
    try:
        if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(data.path)
        else:
            name, _, config = (data.path, "", "") if folder.exists() else data.path.partition(":")
            loaded = datasets.load_dataset(name, config or None)
    except Exception as error:  # the package raises a dozen unrelated types
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"data.path={data.path!r} cannot be loaded as a Hugging Face dataset ({cause}): name "
            "a dataset (`name` or `name:configuration`) or a folder of one"
        ) from error
    splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    choices = f"has the splits {', '.join(splits)}"
    if "train" not in splits and len(splits) > 1:
        raise DataError(f"data.path={data.path!r} has no split 'train' to train on: it {choices}")
    train = splits.get("train", next(iter(splits.values())))
    if data.test_path is not None and data.test_path not in splits:
        raise DataError(
            f"data.test_path={data.test_path!r} is no split of {data.path!r}, which {choices}"
        )
    tests = [split for split in (data.test_path, "test", "validation") if split in splits]
    test = splits[tests[0]] if tests else None
    base = folder if folder.is_dir() else Path()
    return (
        tables.hub(train, data, f"{data.path} train", base),
        None if test is None else tables.hub(test, data, f"{data.path} {tests[0]}", base),
    )


_READERS: dict[str, Callable[[Data], tuple[Rows, Rows | None]]] = {
    "demo": _demo,
    "folder": _folder,
    "hub": _hub,
    "parquet": tables.parquet,
    "table": tables.texts,
}
