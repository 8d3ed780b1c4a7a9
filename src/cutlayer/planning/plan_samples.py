"""How many samples each device holds in a plan: by the job's data, or else as its fleet says."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cutlayer.job import Job
from cutlayer.settings.data import Data
from cutlayer.world.units import Indices
from cutlayer.world.world import World

CLASSES = 256
"""Where labels are not looked at; this many classes make a label one byte."""


@dataclass(frozen=True)
class PlannedSamples:
    """Samples of an epoch by device [M], the number of classes, and where these come from."""

    by_device: tuple[int, ...]
    classes: int
    said: str


ReadLabels = Callable[[Data, int], tuple[Indices, tuple[str, ...]]]


def read_labels(data: Data, seed: int) -> tuple[Indices, tuple[str, ...]]:
    """The labels of the training samples of `data`, and the classes. Raises DataError."""
    from cutlayer.data.sources import training_labels  # torch, which planning else goes without

    return training_labels(data, seed)


def samples_of(job: Job, world: World, read: ReadLabels = read_labels) -> PlannedSamples:
    """By the labels of the job's data, divided as in a run; images are not read.

    A job that names no data, or data that is not on this machine, has the sizes of the world's
    fleet. Nothing is downloaded. Raises DataError for data that cannot be read or dealt out.
    """
    data = job.data_in_use
    if "data" not in job.model_fields_set:
        why = "the job names no data"
    elif data.path is not None and not Path(data.path).expanduser().exists():
        why = f"data.path {data.path} is not on this machine"
    else:
        from cutlayer.data.drawn import DrawnShares
        from cutlayer.data.partition import divide

        labels, classes = read(data, job.seed)
        shares, _ = divide(labels, data.partition, job.devices.count, job.seed)
        if isinstance(shares, DrawnShares):  # none of a million has to be drawn
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


def _range(sizes: tuple[int, ...]) -> str:
    low, high = int(np.min(sizes)), int(np.max(sizes))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
