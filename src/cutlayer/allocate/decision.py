"""What an allocator tells one device to do in a round."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """Of one device that takes part in a round.

    cut: blocks on the device. tokens: kept of a sample besides the prefix; None keeps all.
    bits_up, bits_down: of a value of the activations and of their gradient.
    bandwidth_hz, power_w: of the uplink; None where no radio is modelled.
    """

    cut: int
    tokens: int | None = None
    bits_up: int = 32
    bits_down: int = 32
    bandwidth_hz: float | None = None
    power_w: float | None = None
