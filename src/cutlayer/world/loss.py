"""Packets that are lost and sent again: how much later a frame is whole."""

import numpy as np

from cutlayer.world.units import Array, array

PACKET_BYTES = 1448
"""Payload of a TCP segment with time stamps in an Ethernet frame."""


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
    round trip later, from what came after; of one of the last three packets by a probe, another
    round trip later (RACK-TLP, RFC 8985). Packets after it travel on meanwhile, so that a loss
    early in a long frame costs nothing. For senders that do not slow down for losses (BBR).
    """
    packets = int(np.ceil(size_bytes / PACKET_BYTES))
    if not packets or not rate_bps > 0:
        return np.zeros(frames)
    lost = rng.geometric(1 - loss, (frames, packets)) - 1
    behind = np.arange(packets)[::-1]
    waited_s = round_trip_s * (lost + ((lost > 0) & (behind < 3)))
    late_s = waited_s - behind * (8 * PACKET_BYTES / rate_bps)
    return array(np.maximum(late_s.max(axis=1), 0.0))
