"""Packets that are lost and sent again: by how many seconds a frame arrives later.

No device is lost here: a network does that, see network/server/connected_devices.py.

The sender behaves as TCP with BBR, which does not slow down when packets are lost.
benchmarks/link.py compares this with a real link.
"""

import numpy as np

from cutlayer.world.units import Array, array

PACKET_BYTES = 1448
"""Payload of a TCP segment with time stamps in an Ethernet frame."""

TIMEOUT_S = 0.2
"""Seconds that Linux waits at least, beyond a round trip, before it sends again unasked."""

# BBR's least window.
_UNPACED = 4


def lateness_s(
    rng: np.random.Generator,
    size_bytes: float,
    rate_bps: float,
    frames: int,
    loss: float,
    round_trip_s: float,
) -> Array:
    """Seconds [frames] by which packet loss delays each of `frames` frames of `size_bytes` bytes.

    Every sending of a packet is lost with probability `loss`, independently. The sender learns of a
    lost packet one round trip later, from the answers to later packets. If the last packet is lost,
    a probe tells another round trip later (RACK-TLP, RFC 8985); if that is lost again, a time-out
    does, TIMEOUT_S later. Packets behind a lost one travel on meanwhile, so a loss early in a long
    frame costs nothing.

    A sender that sees losses sends no faster than what was delivered to the receiver, here one
    frame a round trip: a short frame takes a round trip to send, whatever the link's rate.
    """
    packets = int(np.ceil(size_bytes / PACKET_BYTES))
    if not (packets and loss) or not rate_bps > 0:
        return np.zeros(frames)
    apart_s = 8 * PACKET_BYTES / rate_bps
    paced_s = max(apart_s, round_trip_s / packets) if packets > _UNPACED else apart_s
    lost = rng.geometric(1 - loss, (frames, packets)) - 1
    flowing_s = np.arange(packets)[::-1] * paced_s
    waited_s = np.where(lost > 0, round_trip_s * (1 + (flowing_s == 0)), 0.0)
    for again in range(1, int(lost.max())):
        unheard = np.where(waited_s < flowing_s, 0.0, TIMEOUT_S)
        waited_s += np.where(lost > again, round_trip_s + unheard, 0.0)
    late_s = np.maximum((waited_s - flowing_s).max(axis=1), 0.0)
    return array(late_s + packets * (paced_s - apart_s))
