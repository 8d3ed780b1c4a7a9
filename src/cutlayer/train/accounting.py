"""Epsilon of the training so far, by the accountant of Google's dp-accounting.

No amplification by sampling is counted: the record says who takes part in a round, and batches are
drawn without replacement. So with unit device each round costs a device that takes part one
Gaussian mechanism; with unit sample each epoch costs each of its samples one. Epsilon is that of
the device that took part most often.
"""

import math
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from cutlayer.job import Job
from cutlayer.settings.privacy import Privacy


def sides(job: Job) -> int:
    """How many sums of clipped gradients a sample is in per step: one on each side that trains."""
    frozen = job.method.device == "frozen"
    return 2 if job.method.split and not frozen and job.privacy.unit == "sample" else 1


def releases(job: Job, rounds: Iterable[Iterable[int]]) -> int:
    """How many noisy sums used one unit's data: that of the device in most of `rounds`.

    rounds: the devices that took part in each round.
    """
    turns = Counter(device for devices in rounds for device in devices)
    each = job.training.local_epochs if job.privacy.unit == "sample" else 1
    return max(turns.values(), default=0) * each


def epsilon_of(job: Job, rounds: Iterable[Iterable[int]]) -> float | None:
    """Epsilon at privacy.delta after `rounds`, the devices that took part in each of them.

    None if nothing is hidden: no unit, or no noise. If both sides of the cut train, each clips the
    norm of a sample's gradient to C, so that together it is at most sqrt(2) C.
    """
    privacy = job.privacy
    if privacy.unit == "none" or not privacy.noise_multiplier:
        return None
    multiplier = privacy.noise_multiplier / sides(job) ** 0.5
    return _epsilon(multiplier, releases(job, rounds), privacy.delta)


@lru_cache(maxsize=256)
def _epsilon(multiplier: float, releases: int, delta: float) -> float:
    # The extra `privacy` installs it; only jobs that ask for privacy need it.
    import dp_accounting
    from dp_accounting import pld

    accountant = pld.PLDAccountant()
    if releases:
        accountant.compose(dp_accounting.GaussianDpEvent(multiplier), releases)
    return float(accountant.get_epsilon(delta))


def label_epsilon(share: float, classes: int) -> float:
    """Epsilon of one label out of C if a share p of the labels is drawn anew.

    A label stays the same with probability 1 - p + p / C and becomes a given other one with p / C;
    epsilon is the logarithm of their ratio (Warner 1965).
    """
    return math.log1p(classes * (1 - share) / share) if share else math.inf


def check_accountant(privacy: Privacy) -> None:
    """Raise ModuleNotFoundError, before anything is trained, where the accountant is missing."""
    if privacy.unit != "none" and privacy.noise_multiplier:
        _epsilon(1.0, 1, 0.5)
