"""Measures a link's rates and round trip, with pings of growing size."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.messages import MAX_PING_BYTES

# Shorter times say more of the machines than of the link.
_LONG_ENOUGH_S = 0.25
# Of so many long pings the fastest counts: during the first, TCP finds out how fast the link is.
_TRIES = 3


@dataclass(frozen=True)
class LinkRates:
    """What was measured of a link: the round trip of an empty message in seconds, and payload bits
    per second sent and received.
    """

    round_trip_s: float
    sent_bps: float
    received_bps: float


async def measure_link(connection: Connection, tries: int = 5) -> LinkRates:
    """Measure the link of a connection that carries nothing else meanwhile.

    A rate is the bits of a ping over the time it takes beyond an empty one's: pings grow from
    16 KiB until that is a quarter of a second, or they are MAX_PING_BYTES, and the fastest of three
    of that size counts. Raises NetworkError.
    """
    round_trip_s = min([await connection.ping() for _ in range(tries)])
    sent = await _rate(lambda size: connection.ping(payload_bytes=size), round_trip_s)
    received = await _rate(lambda size: connection.ping(answer_bytes=size), round_trip_s)
    return LinkRates(round_trip_s, sent, received)


async def _rate(ping: Callable[[int], Awaitable[float]], round_trip_s: float) -> float:
    size = 2**14
    while True:
        taken_s = await ping(size) - round_trip_s
        if taken_s >= _LONG_ENOUGH_S or size >= MAX_PING_BYTES:
            again_s = [await ping(size) - round_trip_s for _ in range(_TRIES - 1)]
            return 8 * size / max(min(taken_s, *again_s), 1e-6)
        size = min(4 * size, MAX_PING_BYTES)
