"""Which devices a round draws from the fleet, and which of them share a pass on the server."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.seeds import numpy_rng

POOL = 4
"""Devices in a pass where a job does not say and memory is not a GPU's: a CPU gains nothing by
more."""


def draw_cohort(job: Job, round: int) -> list[int]:
    """The devices of a round, in the order they take turns: uniform without replacement.

    When one party holds all the data there is one device, number 0.
    """
    if job.method.pooled:
        return [0]
    rng = numpy_rng(job.seed, round, "cohort")
    order, number = rng.permutation(job.devices.count), job.devices.cohort
    if job.devices.participation == "poisson":
        number = max(1, int(rng.poisson(number)))
    return [int(i) for i in order[:number]]


def pool_of(job: Job) -> int:
    """Devices in a pass as a job says it, whatever computes.

    Where the server's one adapter moves device after device and the last blocks are on devices, a
    pass is of one: what the next is sent must come from the moved adapter.
    """
    return 1 if is_one_by_one(job) else job.training.pool or POOL


def is_one_by_one(job: Job) -> bool:
    """Whether each device's pass must wait for what the server made of the one before."""
    return job.has_tail and job.method.server_adapter == "in-turn"


def make_pools(
    decisions: Mapping[int, Decision], devices: Sequence[int], size: int
) -> list[list[int]]:
    """Devices that share a pass through the backbone: of one cut, `size` at most."""
    by_cut = defaultdict(list)
    for device in devices:
        by_cut[decisions[device].cut].append(device)
    return [
        alike[start : start + size]
        for alike in by_cut.values()
        for start in range(0, len(alike), size)
    ]
