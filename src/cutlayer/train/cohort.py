"""Which devices a round draws from the fleet."""

from cutlayer.job import Job
from cutlayer.seeds import numpy_rng


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
