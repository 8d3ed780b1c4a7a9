"""What an allocator tells one device to do in a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cutlayer.settings.method import Method, Quantizer, Tokens
from cutlayer.settings.precision import Precision

if TYPE_CHECKING:
    from cutlayer.job import Job


@dataclass(frozen=True)
class Decision:
    """What one device that takes part in a round is told.

    cut: number of blocks on the device. tokens: number of tokens of a sample that are kept, the
    prefix (CLS, registers) not counted; None keeps all. bits_up: bits of each activation value sent
    up. bits_down: bits of each gradient value sent down. bandwidth_hz, power_w: of the uplink; None
    where no radio is modelled. rate_bits: average bits of each value sent up by a fitted codec;
    None: the method's own. precision: numbers in which the device computes its frozen blocks.
    """

    cut: int
    tokens: int | None = None
    bits_up: int = 32
    bits_down: int = 32
    bandwidth_hz: float | None = None
    power_w: float | None = None
    rate_bits: float | None = None
    precision: Precision = "float32"

    def uplink(self, method: Method) -> Quantizer:
        """How activations become bits: as the method says, at the bits decided.

        method: of the job. Where quantised changes go up, a sample's first visit does not lose any.
        """
        if method.uplink.change and method.uplink.codec == "quantize":
            return Quantizer(bits=32)
        decided: dict[str, float] = {"bits": self.bits_up}
        if self.rate_bits is not None:
            decided["rate_bits"] = self.rate_bits
        return method.uplink.model_copy(update=decided)

    @property
    def sent_bits(self) -> float:
        """Bits of a value sent up as decided: rate_bits if it is set, else bits_up."""
        return self.bits_up if self.rate_bits is None else self.rate_bits

    def value_bits(self, method: Method) -> float:
        """Bits of a value sent up, by the method's quantiser with the bits that were decided.

        method: of the job.
        """
        uplink = method.uplink  # as `uplink` decides, without a copy for each of many devices
        if uplink.codec == "klt":
            return uplink.rate_bits if self.rate_bits is None else self.rate_bits
        return 32 if uplink.change else self.bits_up

    def downlink(self, method: Method) -> Quantizer:
        """The method's quantiser of gradients, with the bits that were decided.

        method: of the job.
        """
        return method.downlink.model_copy(update={"bits": self.bits_down})

    def selection(self, method: Method) -> Tokens:
        """The method's token selection, with the number of tokens that was decided.

        method: of the job.
        """
        return method.tokens.model_copy(update={"keep": self.tokens})

    def keep(self, patches: int) -> int:
        """The number of tokens kept of a sample that has `patches`: all where `tokens` is None."""
        return patches if self.tokens is None else self.tokens


def base_decision(job: Job) -> Decision:
    """The decision that the job and its method's settings make, without an allocator."""
    method = job.method
    return Decision(job.cut, method.tokens.keep, method.uplink.bits, method.downlink.bits)


class Setting(NamedTuple):
    """Cut, tokens kept (None: all) and bits of each value, with which a sample is sent up, and the
    numbers in which the device computed it.
    """

    cut: int
    tokens: int | None
    bits: float
    precision: Precision = "float32"


def setting_of(one: Decision, method: Method) -> Setting:
    """The part of a decision that a sample's activations, as sent, depend on."""
    return Setting(one.cut, one.tokens, one.value_bits(method), one.precision)


def serves(held: Setting | None, wanted: Setting, method: Method) -> bool:
    """Whether activations that the server holds at setting `held` will do where `wanted` is asked.

    held: None where the server holds none. Those of a fitted codec also do for fewer bits.
    """
    if held is None or held._replace(bits=0) != wanted._replace(bits=0):
        return False
    return held.bits >= wanted.bits if method.uplink.codec == "klt" else held.bits == wanted.bits


def tokens_of(keep: int, patches: int) -> int | None:
    """`Decision.tokens` for `keep` of `patches` tokens: None where that is all of them."""
    return None if keep >= patches else keep
