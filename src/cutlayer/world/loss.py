"""Packets that are lost and sent again: how much later a frame is whole."""

import numpy as np

from cutlayer.world.units import Array, array

PACKET_BYTES = 1448
"""Payload of a TCP segment with time stamps in an Ethernet frame."""

TIMEOUT_S = 0.2
"""The least that Linux waits beyond a round trip before it sends again unasked."""


def lateness_s(
    rng: np.random.Generator,
    size_bytes: float,
    rate_bps: float,
    frames: int,
    loss: float,
    round_trip_s: float,
) -> Array:
    """[frames]: seconds by which loss delays frames of a size on a link.

    Every try of a packet is lost with probability `loss`, on its own. The sender learns of it a
    round trip later, from what came after; of the last packet by a probe, another round trip later
    (RACK-TLP, RFC 8985); and of one that is lost again when nothing comes after by a time-out,
    TIMEOUT_S more. Packets after it travel on meanwhile, so that a loss early in a long frame costs
    nothing. For senders that do not slow down for losses (BBR).
    """
    packets = int(np.ceil(size_bytes / PACKET_BYTES))
    if not packets or not rate_bps > 0:
        return np.zeros(frames)
    lost = rng.geometric(1 - loss, (frames, packets)) - 1
    flowing_s = np.arange(packets)[::-1] * (8 * PACKET_BYTES / rate_bps)
    waited_s = np.where(lost > 0, round_trip_s * (1 + (flowing_s == 0)), 0.0)
    for again in range(1, int(lost.max())):
        unheard = np.where(waited_s < flowing_s, 0.0, TIMEOUT_S)
        waited_s += np.where(lost > again, round_trip_s + unheard, 0.0)
    return array(np.maximum((waited_s - flowing_s).max(axis=1), 0.0))
