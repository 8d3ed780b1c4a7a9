"""What an allocator tells one device to do in a round."""

from dataclasses import dataclass

from cutlayer.settings.method import Method, Quantizer, Tokens


@dataclass(frozen=True)
class Decision:
    """Of one device that takes part in a round.

    cut: blocks on the device. tokens: kept of a sample besides the prefix; None keeps all.
    bits_up: of each activation value sent up. bits_down: of each gradient value sent down.
    bandwidth_hz, power_w: of the uplink; None where no radio is modelled.
    """

    cut: int
    tokens: int | None = None
    bits_up: int = 32
    bits_down: int = 32
    bandwidth_hz: float | None = None
    power_w: float | None = None

    def uplink(self, method: Method) -> Quantizer:
        """How activations become bits: as the method says, at the bits decided."""
        return method.uplink.model_copy(update={"bits": self.bits_up})

    def downlink(self, method: Method) -> Quantizer:
        """How gradients become bits: as the method says, at the bits decided."""
        return method.downlink.model_copy(update={"bits": self.bits_down})

    def selection(self, method: Method) -> Tokens:
        """Which tokens cross the cut: by the method's score, as many as decided."""
        return method.tokens.model_copy(update={"keep": self.tokens})

    def keep(self, patches: int) -> int:
        """The number of tokens kept of `patches`, all of them included."""
        return patches if self.tokens is None else self.tokens


def tokens_of(keep: int, patches: int) -> int | None:
    """`Decision.tokens` for `keep` of `patches` tokens: None where that is all of them."""
    return None if keep >= patches else keep
