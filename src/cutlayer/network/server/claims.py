"""Checks what devices say of themselves, against the job and against the other devices.

The server believes a number from a device only as far as it can check it. It counts samples of the
job's own data itself; samples of a device's own data count as far as their activations arrive. A
number that cannot be checked is bounded by the numbers of the other devices in the round, so that a
lie costs only the liar its place.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from cutlayer.errors import NetworkError, RefusedError
from cutlayer.job import Job
from cutlayer.network.transport.messages import Probed, Ready
from cutlayer.train.activation_summary import ActivationStatistics
from cutlayer.train.parts import Parts

# A device with data of its own trains on at most this many times the median samples of its round.
_MOST_OF_MEDIAN = 10
# Without a split no activations arrive that could be counted: then a device trains on at most this
# many times the median samples, which also bounds its weight in the average.
_MOST_UNSEEN = 2
# Laplace noise is larger than this many times its scale once in 10^17 draws.
_NOISE_SCALES = 40.0
# The activations of one model have a similar spread on all devices: one whose spread is more than
# this many times the median is refused.
_MOST_SPREAD = 1000.0
_LEAST_SQUARE, _MOST_SQUARE = 1e-12, 1e12
_SUM_ERROR = 1e-3


class Claims:
    """Checks what devices of one job say."""

    def __init__(self, job: Job, parts: Parts) -> None:
        self._job, self._spec = job, parts.model.spec
        self._shares = [len(share) for share in parts.shares]
        self._classes = len(parts.train.classes)

    def check_ready(self, number: int, ready: Ready) -> None:
        """Raise RefusedError if device `number` says a wrong number of samples or labels."""
        if not ready.own:
            # The server counts the labels of such a device itself.
            if ready.samples != self._shares[number]:
                raise RefusedError(
                    f"samples: device {number} says it has {ready.samples} of the job's own data, "
                    f"but the server counts {self._shares[number]}: use the same data on both"
                )
            return
        if self._job.generated is None or ready.labels is None:
            return
        epsilon = self._job.generated.share_epsilon
        noise = 0.0 if epsilon is None else _NOISE_SCALES / epsilon
        most_off = noise * self._classes if epsilon is not None else 0.5
        if (
            len(ready.labels) != self._classes
            or max(ready.labels) > ready.samples + noise
            or abs(math.fsum(ready.labels) - ready.samples) > most_off
        ):
            raise RefusedError(
                f"labels: the {len(ready.labels)} counts of device {number} do not fit its "
                f"{ready.samples} samples of {self._classes} classes: run the same cutlayer on both"
            )

    def samples(self, ready: Mapping[int, Ready]) -> dict[int, int]:
        """The most samples of an epoch on which each device of a round trains."""
        if not ready:
            return {}
        median = statistics.median_low(one.samples for one in ready.values())
        most = median * (_MOST_OF_MEDIAN if self._job.method.split else _MOST_UNSEEN)
        return {
            number: min(one.samples, most) if one.own else one.samples
            for number, one in ready.items()
        }

    def statistics(self, number: int, answer: Probed, asked: Sequence[int]) -> ActivationStatistics:
        """A device's answer to a probe. Raises NetworkError for impossible values.

        asked: the round, the cut, and 1 if tokens were to be ranked.
        """
        round, cut, scored = asked
        due = (answer.round, answer.cut) == (round, cut)
        if not due or bool(scored) != (answer.importance is not None):
            raise NetworkError(
                f"probe: device {number} answered for round {answer.round}, cut {answer.cut}, but "
                f"round {round}, cut {cut} was asked for: run the same cutlayer on both sides"
            )
        if not (
            _LEAST_SQUARE <= answer.mean_square <= _MOST_SQUARE
            # max - min is at least the standard deviation; min and max may have the same sign.
            and math.sqrt(_LEAST_SQUARE) <= answer.spread <= math.sqrt(_MOST_SQUARE)
        ):
            raise NetworkError(
                f"probe: device {number} says that its activations spread over {answer.spread:g} "
                f"with a mean square of {answer.mean_square:g}: no model's do"
            )
        curve = None
        if answer.importance is not None:
            curve = np.asarray(answer.importance, dtype=np.float64)
            self._check_curve(number, curve, cut)
        return ActivationStatistics(curve, answer.spread, answer.mean_square)

    def _check_curve(self, number: int, curve: np.ndarray, cut: int) -> None:
        tokens = self._spec.tokens_at(cut) - self._spec.prefix
        fits = curve.shape == (tokens + 1,)
        if fits:
            gains = np.diff(curve)
            ends = abs(curve[0]) <= _SUM_ERROR and abs(curve[-1] - 1.0) <= _SUM_ERROR
            # The best token comes first, so each adds no more than the one before.
            fits = bool(ends and (gains >= 0).all() and (np.diff(gains) <= _SUM_ERROR).all())
        if not fits:
            raise NetworkError(
                f"probe: device {number} ranks its tokens by {len(curve)} numbers that do not rise "
                f"from 0 to 1 over {tokens} tokens, the best first: run the same cutlayer on both"
            )


def far_off(found: Mapping[int, ActivationStatistics]) -> dict[int, NetworkError]:
    """The devices whose activations spread far more or less than the others', and the error.

    If only two devices differ, nothing shows which one lies; the smaller spread then counts as the
    median, since a larger spread asks for more bits.
    """
    faults: dict[int, NetworkError] = {}
    for what, of in (
        ("spread", {number: one.spread for number, one in found.items()}),
        ("mean square", {number: one.mean_square**0.5 for number, one in found.items()}),
    ):
        median = statistics.median_low(of.values()) if of else 0.0
        for number, value in of.items():
            if not median / _MOST_SPREAD <= value <= median * _MOST_SPREAD:
                faults[number] = NetworkError(
                    f"probe: the {what} of the activations of device {number} is {value:g}, but "
                    f"the median of the round is {median:g}: run the same job on both sides"
                )
    return faults
