"""What an allocator tells one device to do in a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutlayer.settings.method import Method, Quantizer, Tokens

if TYPE_CHECKING:
    from cutlayer.job import Job


@dataclass(frozen=True)
class Decision:
    """Of one device that takes part in a round.

    cut: blocks on the device. tokens: kept of a sample besides the prefix; None keeps all.
    bits_up: of each activation value sent up. bits_down: of each gradient value sent down.
    bandwidth_hz, power_w: of the uplink; None where no radio is modelled. rate_bits: of each value
    sent up where the uplink's codec is a fitted one; None: the method's own.
    """

    cut: int
    tokens: int | None = None
    bits_up: int = 32
    bits_down: int = 32
    bandwidth_hz: float | None = None
    power_w: float | None = None
    rate_bits: float | None = None

    def uplink(self, method: Method) -> Quantizer:
        """How activations become bits: as the method says, at the bits decided.

        Where quantised changes go up, a sample's first visit does not lose any.
        """
        if method.uplink.change and method.uplink.codec == "quantize":
            return Quantizer(bits=32)
        decided: dict[str, float] = {"bits": self.bits_up}
        if self.rate_bits is not None:
            decided["rate_bits"] = self.rate_bits
        return method.uplink.model_copy(update=decided)

    @property
    def sent_bits(self) -> float:
        """Bits of a value sent up, as decided: a rate where there is one."""
        return self.bits_up if self.rate_bits is None else self.rate_bits

    def value_bits(self, method: Method) -> float:
        """Bits that a value sent up takes."""
        return self.uplink(method).value_bits

    def downlink(self, method: Method) -> Quantizer:
        """How gradients become bits: as the method says, at the bits decided."""
        return method.downlink.model_copy(update={"bits": self.bits_down})

    def selection(self, method: Method) -> Tokens:
        """Which tokens cross the cut: by the method's score, as many as decided."""
        return method.tokens.model_copy(update={"keep": self.tokens})

    def keep(self, patches: int) -> int:
        """The number of tokens kept of `patches`, all of them included."""
        return patches if self.tokens is None else self.tokens


def base_decision(job: Job) -> Decision:
    """The decision that the job and its method's settings make, without an allocator."""
    method = job.method
    return Decision(job.cut, method.tokens.keep, method.uplink.bits, method.downlink.bits)


Setting = tuple[int, int | None, float]
"""Cut, tokens kept, and bits of a value up: what a device's samples are sent at."""


def setting_of(one: Decision, method: Method) -> Setting:
    """What of a decision makes a sample's activations what they are."""
    return one.cut, one.tokens, one.value_bits(method)


def serves(held: Setting | None, wanted: Setting, method: Method) -> bool:
    """Whether what was sent at one setting need not be sent again at another.

    Codes of a fitted codec serve where fewer bits are wanted too.
    """
    if held is None or held[:2] != wanted[:2]:
        return False
    return held[2] >= wanted[2] if method.uplink.codec == "klt" else held[2] == wanted[2]


def tokens_of(keep: int, patches: int) -> int | None:
    """`Decision.tokens` for `keep` of `patches` tokens: None where that is all of them."""
    return None if keep >= patches else keep
