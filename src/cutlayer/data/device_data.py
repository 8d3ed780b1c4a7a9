"""What a device trains on: samples of its own, or its part of the job's data."""

from dataclasses import replace
from pathlib import Path

from cutlayer.data.dataset import Dataset
from cutlayer.data.partition import partition
from cutlayer.data.reading import check_there, kind_of_source
from cutlayer.data.sources import load, load_own
from cutlayer.job import Job
from cutlayer.resize import Fit
from cutlayer.settings.data import Data


def load_share(job: Job, number: int, fit: Fit | None) -> Dataset:
    """The part of the job's data that device `number` of a simulation has.

    fit: how the model resizes and crops images. Raises DataError.
    """
    train, _ = load(job.data_in_use, job.seed, fit)
    shares = partition(train.labels, job.data.partition, job.devices.count, job.seed)
    return replace(train.subset(shares[number]), report=train.report)


def load_folder(path: Path, job: Job, classes: tuple[str, ...], fit: Fit | None) -> Dataset:
    """All samples in a file or folder of this device, labelled by the classes the server names.

    What lies at `path` decides how it is read: as a folder of images for each class, as parquet
    files, or as tables. The job names the columns and the format of tables. fit: how the model
    resizes and crops images. Raises DataError.
    """
    check_there(path)
    data = Data(
        source=kind_of_source(path),
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
