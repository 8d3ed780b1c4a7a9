"""Which folders, files and splits are trained and tested on, and what is said of the rest."""

from pathlib import Path

import pytest
from PIL import Image

from cutlayer.data.sources import load
from cutlayer.data.splits import split_of
from cutlayer.errors import DataError
from cutlayer.settings.data import Data


def folders(root: Path, *splits: str, per_class: int = 5) -> Data:
    """Two class folders in each of the splits, where a split may be a path."""
    for split in splits:
        for label in ("ant", "bee"):
            (root / split / label).mkdir(parents=True)
            for i in range(per_class):
                Image.new("L", (4, 4), 9 * i).save(root / split / label / f"{i}.png")
    return Data(source="folder", path=str(root))


def tables(root: Path, *names: str) -> Data:
    """Tables whose texts begin with the name of their file."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        rows = "".join(f"{name} {i},{i % 2}\n" for i in range(10))
        (root / name).write_text("text,label\n" + rows)
    return Data(source="table", path=str(root))


@pytest.mark.parametrize(
    ("split", "names"),
    {
        "train": "train Training seg_train TRAIN x_train TrainImages train2017 train-0 trainset",
        "test": "test testing seg_test my-test TestSet test_data x_TEST",
        "val": "val valid Validation dev x_dev val2017 eval",
        None: "data cat trains valley developer protest train_test_split photos",
    }.items(),
)
def test_a_name_tells_its_split_as_prefix_or_suffix_in_any_case(
    split: str | None, names: str
) -> None:
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


@pytest.mark.parametrize(
    ("splits", "trained", "tested"),
    [
        (("Training", "Testing"), 10, 10),
        (("seg_train/seg_train", "seg_test/seg_test"), 10, 10),
        (("train", "valid"), 10, 10),
        (("archive/data/train", "archive/data/test"), 10, 10),
        (("train_a", "train_b", "test"), 20, 10),
    ],
)
def test_split_folders_are_no_classes(
    tmp_path: Path, splits: tuple[str, ...], trained: int, tested: int
) -> None:
    train, test = load(folders(tmp_path, *splits), 0)
    assert train.classes == ("ant", "bee")
    assert (len(train), len(test)) == (trained, tested)


def test_splits_below_the_classes_are_splits_too(tmp_path: Path) -> None:
    for label in ("ant", "bee"):
        for split, count in (("train", 4), ("test", 2)):
            (tmp_path / label / split).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (4, 4), i).save(tmp_path / label / split / f"{i}.png")
    train, test = load(Data(source="folder", path=str(tmp_path)), 0)
    assert (train.classes, len(train), len(test)) == (("ant", "bee"), 8, 4)
    Image.new("L", (4, 4), 9).save(tmp_path / "ant" / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png lies in no split"):
        load(Data(source="folder", path=str(tmp_path)), 0)


def test_a_split_that_lies_unused_is_said(tmp_path: Path) -> None:
    train, _ = load(folders(tmp_path, "train", "valid", "test", "notes/x"), 0)
    assert train.report is not None
    assert "not used: valid (the model is tested on test)" in train.report.line
    with pytest.raises(DataError, match="beside notes with images"):
        load(folders(tmp_path / "other", "train", "notes"), 0)


@pytest.mark.parametrize("splits", [("test", "valid"), ("test",)])
def test_nothing_is_trained_on_but_what_is_for_training(
    tmp_path: Path, splits: tuple[str, ...]
) -> None:
    with pytest.raises(DataError, match="does not say what to train on"):
        load(folders(tmp_path / "images", *splits), 0)
    with pytest.raises(DataError, match="does not say what to train on"):
        load(tables(tmp_path / "texts", *(f"{split}.csv" for split in splits)), 0)


def test_folders_named_for_splits_that_hold_images_are_refused_as_classes(tmp_path: Path) -> None:
    data = folders(tmp_path, "x")
    (tmp_path / "x" / "ant").rename(tmp_path / "train")
    (tmp_path / "x" / "bee").rename(tmp_path / "test")
    (tmp_path / "x").rmdir()
    with pytest.raises(DataError, match=r"each class needs a folder of its own in each split"):
        load(data, 0)


@pytest.mark.parametrize(
    ("names", "trained", "tested"),
    [
        (("imdb_train.csv", "imdb_test.csv"), "imdb_train.csv", "imdb_test.csv"),
        (("data.csv", "data_test.csv"), "data.csv", "data_test.csv"),
        (("Training.csv", "DEV.csv"), "Training.csv", "DEV.csv"),
        (("train/a.csv", "valid/a.csv", "test/a.csv"), "train/a.csv", "test/a.csv"),
        (("train.csv", "test.csv", "more.csv"), "train.csv", "test.csv"),
    ],
)
def test_test_rows_of_tables_are_never_trained_on(
    tmp_path: Path, names: tuple[str, ...], trained: str, tested: str
) -> None:
    train, test = load(tables(tmp_path, *names), 0)
    assert {text.split()[0] for text in train.inputs} == {trained}
    assert {text.split()[0] for text in test.inputs} == {tested}
    assert train.report is not None
    assert ("not used" in train.report.line) == (len(names) > 2)


def test_named_splits_of_the_hub_go_by_the_same_rule(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra cutlayer[datasets]")
    part = datasets.Dataset.from_dict({"text": list("abcd"), "label": [" 1", "0.0", "1", "0"]})
    splits = datasets.DatasetDict({"training": part, "Testing": part, "unsupervised": part})
    splits.save_to_disk(tmp_path / "saved")
    train, test = load(Data(source="hub", path=str(tmp_path / "saved")), 0)
    assert (len(train), len(test), train.classes) == (4, 4, ("0", "1"))
    assert train.report is not None
    assert train.report.test == f"{tmp_path / 'saved'} Testing"
    assert "not used: unsupervised" in train.report.line


def test_a_load_says_in_one_line_what_it_found(tmp_path: Path) -> None:
    train, test = load(folders(tmp_path, "train"), 0)
    assert train.report is not None
    assert train.report is test.report
    assert train.report.line == (
        f"data: 8 samples of 2 classes (ordered by the names of their folders) from "
        f"{tmp_path / 'train'}; tested on 2 from a held-out fifth of every class"
    )
    assert train.report.record()["classes"] == ("ant", "bee")
    assert train.subset([0]).report is None
