"""What crosses between devices and server besides activations and adapters, and may have a basis
that the server fits (see way_coding.py): gradients at the cut, and what passes a tail on devices.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cutlayer.job import Job
from cutlayer.settings.method import Method, Quantizer


@dataclass(frozen=True)
class Way:
    """What crosses a cut in one direction.

    name: in messages, and of what a run's state says of it. setting: the one of the method that
    says how it is sent; quantizer: what it says. gradients: or else hidden states. tail: it crosses
    where the last blocks on devices begin (model.tail), not at the first cut.
    """

    name: str
    setting: str
    quantizer: Callable[[Method], Quantizer]
    gradients: bool
    tail: bool

    @property
    def start(self) -> str:
        """What the names of its entries of a run's state begin with."""
        return f"{self.name}."

    def is_fitted(self, job: Job) -> bool:
        """Whether the job has anything cross this way, by a codec that is fitted."""
        crosses = job.has_tail if self.tail else job.method.split
        return crosses and self.quantizer(job.method).codec == "klt"

    def fits_own(self, job: Job) -> bool:
        """Whether that codec is fitted to samples of the server's own (see own_tail.py)."""
        return self.is_fitted(job) and self.quantizer(job.method).fits_own

    def weighs(self, job: Job) -> bool:
        """Whether a fit of that codec weighs errors (see tail_weighing.py)."""
        return self.is_fitted(job) and self.quantizer(job.method).weighting

    def rounds_at_random(self, job: Job) -> bool:
        """Whether that codec rounds with the right mean: of gradients from a tail alone."""
        at_random = self.quantizer(job.method).rounding == "stochastic"
        return self.is_fitted(job) and self.gradients and self.tail and at_random


GRADIENTS = Way("down", "downlink", lambda method: method.downlink, gradients=True, tail=False)
FEATURES = Way(
    "tail-down", "tail_downlink", lambda method: method.features_down, gradients=False, tail=True
)
FEATURE_GRADIENTS = Way(
    "tail-up", "tail_uplink", lambda method: method.gradients_up, gradients=True, tail=True
)
WAYS = (GRADIENTS, FEATURES, FEATURE_GRADIENTS)
