"""What a device trains on: samples of its own, or its part of the job's data."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from cutlayer.data import images
from cutlayer.data.below import files_below
from cutlayer.data.dataset import Dataset
from cutlayer.data.delimited import SUFFIXES
from cutlayer.data.partition import partition
from cutlayer.data.sources import load, load_own
from cutlayer.errors import DataError
from cutlayer.job import Job
from cutlayer.resize import Fit
from cutlayer.settings.data import Data


def load_share(job: Job, number: int, fit: Fit | None) -> Dataset:
    """The part of the job's data that device `number` of a simulation has.

    fit: how the model makes its images. Raises DataError.
    """
    train, _ = load(job.data_in_use, job.seed, fit)
    shares = partition(train.labels, job.data.partition, job.devices.count, job.seed)
    return replace(train.subset(shares[number]), report=train.report)


def load_folder(path: Path, job: Job, classes: tuple[str, ...], fit: Fit | None) -> Dataset:
    """All samples in a file or folder of this device; its classes are those that the server names.

    The kind is found out from what is there: a folder of images for each class, parquet files, or
    tables; names of columns and the format of tables are those of the job. fit: how the model makes
    its images. Raises DataError.
    """
    check_there(path)
    data = Data(
        source=_source(path),
        path=str(path),
        kind=job.data.kind,
        input_column=job.data.input_column,
        completion_column=job.data.completion_column,
        separator=job.data.separator,
        label_column=job.data.label_column,
        delimiter=job.data.delimiter,
        encoding=job.data.encoding,
        quotes=job.data.quotes,
        memory_bytes=job.data.memory_bytes,
    )
    return load_own(data, classes, fit)


def check_there(path: Path) -> None:
    """Raise DataError if there are no samples at a device's path."""
    if not path.exists():
        raise DataError(f"--data: there is no {path}: name a folder of images a class, or a table")


def _source(path: Path) -> Literal["folder", "parquet", "table"]:
    suffixes = {path.suffix.lower()}
    if path.is_dir():
        suffixes = {file.suffix.lower() for file in path.iterdir()}
        if not suffixes & {".parquet", *SUFFIXES}:
            below = {file.suffix.lower() for file in files_below(path)}
            suffixes = set() if below & images.suffixes() else below
    if ".parquet" in suffixes:
        return "parquet"
    return "table" if suffixes & set(SUFFIXES) else "folder"
