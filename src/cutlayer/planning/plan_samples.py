"""How many samples each device holds in a plan, by the job's data or else as its fleet says; and
what the samples themselves would take."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cutlayer.job import Job
from cutlayer.model.families import ModelSpec
from cutlayer.record.data_file import said_of
from cutlayer.settings.data import Data
from cutlayer.world.units import Indices
from cutlayer.world.world import World

CLASSES = 256
"""The number of classes taken where labels are not read; a label then takes one byte."""


@dataclass(frozen=True)
class PlannedSamples:
    """by_device: samples of an epoch of each device [M]. classes: how many. said: a phrase on where
    these numbers come from.
    """

    by_device: tuple[int, ...]
    classes: int
    said: str


ReadLabels = Callable[[Data, int], tuple[Indices, tuple[str, ...]]]


def read_labels(data: Data, seed: int) -> tuple[Indices, tuple[str, ...]]:
    """The labels of the training samples of `data`, and the classes. Raises DataError."""
    from cutlayer.data.sources import training_labels  # torch, which planning else goes without

    return training_labels(data, seed)


def samples_of(job: Job, world: World, read: ReadLabels = read_labels) -> PlannedSamples:
    """How many samples each device holds, by the labels of the job's data, divided as in a run.

    Images are not read. If the job names no data, or its data is not on this machine, world.fleet
    gives the numbers. Nothing is downloaded. Raises DataError for data that cannot be read or
    divided.
    """
    data, why = job.data_in_use, why_not_there(job)
    if why is None:
        from cutlayer.data.drawn import DrawnShares
        from cutlayer.data.partition import divide

        labels, classes = read(data, job.seed)
        shares, _ = divide(labels, data.partition, job.devices.count, job.seed)
        if isinstance(shares, DrawnShares):  # the sizes are known without drawing a share
            sizes = shares.sizes
        else:
            sizes = tuple(len(share) for share in shares)
        return PlannedSamples(
            sizes,
            len(classes),
            f"{len(labels):,} of the job's data ({data.path or data.source}), dealt out as in a "
            f"run: {_range(sizes)} a device",
        )
    sizes = tuple(int(size) for size in world.fleet.data_size)
    return PlannedSamples(
        sizes, CLASSES, f"assumed {_range(sizes)} a device, as world.fleet has them: {why}"
    )


def why_not_there(job: Job) -> str | None:
    """Why there are no samples to read, in words; None where there are."""
    path = job.data_in_use.path
    if "data" not in job.model_fields_set:
        return "the job names no data"
    if path is not None and not Path(path).expanduser().exists():
        return f"data.path {path} is not on this machine"
    return None


def own_bytes_sentence(job: Job, spec: ModelSpec) -> str | None:
    """What the training samples themselves would take, sent once, for people; None where they are
    not there to read. Raises DataError.
    """
    if why_not_there(job) is not None:
        return None
    from cutlayer.data.own_bytes import training_bytes
    from cutlayer.model.framing import fit_for

    found = training_bytes(job.data_in_use, job.seed, fit_for(spec))
    return f"the training samples themselves, sent once: {said_of(found)}"


def _range(sizes: tuple[int, ...]) -> str:
    low, high = int(np.min(sizes)), int(np.max(sizes))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
