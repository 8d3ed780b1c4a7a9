"""Packets that are lost and sent again: how much later a frame is whole."""

import numpy as np

from cutlayer.world.units import Array

PACKET_BYTES = 1448
"""Payload of a TCP segment with time stamps in an Ethernet frame."""


def lateness_s(
    rng: np.random.Generator,
    size_bytes: Array,
    rate_bps: Array,
    steps: int,
    loss: float,
    round_trip_s: float,
) -> Array:
    """[steps, M]: seconds by which loss delays frames of sizes [M] that M links [M] carry.

    Every try of a packet is lost with probability `loss`, on its own. The sender learns of it a
    round trip later, from what came after; of one of the last three packets by a probe, another
    round trip later (RACK-TLP, RFC 8985). Packets after it travel on meanwhile, so that a loss
    early in a long frame costs nothing. For senders that do not slow down for losses (BBR).
    """
    late = np.zeros((steps, len(size_bytes)))
    for device, (size, rate) in enumerate(zip(size_bytes, rate_bps, strict=True)):
        packets = int(np.ceil(size / PACKET_BYTES))
        if not packets or not rate > 0:
            continue
        tries = rng.geometric(1 - loss, (steps, packets)) - 1
        behind = np.arange(packets)[::-1]
        waited_s = round_trip_s * (tries + ((tries > 0) & (behind < 3)))
        whole_s = waited_s - behind * (8 * PACKET_BYTES / rate)
        late[:, device] = np.maximum(whole_s.max(axis=1), 0.0)
    return late
