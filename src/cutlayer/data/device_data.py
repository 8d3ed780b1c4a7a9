"""What a device trains on: samples of its own, or its part of the job's data."""

from pathlib import Path
from typing import Literal

from cutlayer.data.dataset import Dataset
from cutlayer.data.partition import partition
from cutlayer.data.sources import load, load_own
from cutlayer.errors import DataError
from cutlayer.job import Job
from cutlayer.settings.data import Data

_TABLES = (".csv", ".tsv", ".jsonl")


def load_share(job: Job, number: int) -> Dataset:
    """The part of the job's data that device `number` of a simulation has. Raises DataError."""
    train, _ = load(job.data, job.seed)
    shares = partition(train.labels, job.data.partition, job.devices.count, job.seed)
    return train.subset(shares[number])


def load_folder(path: Path, job: Job, classes: tuple[str, ...], side: int) -> Dataset:
    """All samples in a file or folder of this device's, of the classes that the server names.

    Folders of images a class, parquet or tables, by what is there; columns as the job says. side:
    images larger than these pixels a side are made that small. Raises DataError.
    """
    check_there(path)
    data = Data(
        source=_source(path),
        path=str(path),
        input_column=job.data.input_column,
        label_column=job.data.label_column,
    )
    return load_own(data, classes, side)


def check_there(path: Path) -> None:
    """Raise DataError where a device's samples are not."""
    if not path.exists():
        raise DataError(f"--data: there is no {path}: name a folder of images a class, or a table")


def _source(path: Path) -> Literal["folder", "parquet", "table"]:
    suffixes = {path.suffix} if path.is_file() else {file.suffix for file in path.iterdir()}
    if ".parquet" in suffixes:
        return "parquet"
    return "table" if suffixes & set(_TABLES) else "folder"
