"""Which devices a round draws from the fleet, which it loses, and which share a server's pass."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.seeds import numpy_rng

POOL = 4
"""How many devices share a pass on a CPU if the job does not say: more would not be faster."""


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


def draw_drop_outs(job: Job, round: int, devices: Sequence[int]) -> dict[int, float]:
    """The devices that are lost in a round (devices.drop_out), each with the share of its steps
    that it makes before: in [0, 1), uniform.
    """
    found = {}
    for device in devices if job.devices.drop_out else ():
        lost, share = numpy_rng(job.seed, device, round, "drop-out").random(2)
        if lost < job.devices.drop_out:
            found[device] = float(share)
    return found


def pool_of(job: Job) -> int:
    """How many devices share a pass by the job's settings, on any torch device.

    One device if the last blocks are on devices and the server's one adapter moves after every
    device: the features for the next device must come from the moved adapter.
    """
    return 1 if is_one_by_one(job) else job.training.pool or POOL


def is_one_by_one(job: Job) -> bool:
    """Whether a device's pass must wait until the server has trained with the device before."""
    return job.has_tail and job.method.server_adapter == "in-turn"


def computed_alike(decision: Decision) -> tuple[int, str]:
    """Cut and precision: devices with the same ones can compute in one pass."""
    return decision.cut, decision.precision


def make_pools(
    decisions: Mapping[int, Decision], devices: Sequence[int], size: int
) -> list[list[int]]:
    """Groups of at most `size` devices that share a pass through the backbone: `computed_alike`."""
    together = defaultdict(list)
    for device in devices:
        together[computed_alike(decisions[device])].append(device)
    return [
        alike[start : start + size]
        for alike in together.values()
        for start in range(0, len(alike), size)
    ]
