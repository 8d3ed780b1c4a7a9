"""Measures a link's rates and round trip, with pings of growing size."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.messages import MAX_PING_BYTES

# Shorter times depend more on the machines than on the link.
_LONG_ENOUGH_S = 0.25
# The fastest of this many long pings counts: in the first, TCP finds out how fast the link is.
_TRIES = 3


@dataclass(frozen=True)
class LinkRates:
    """The measured rates of a link: the round trip of an empty message in seconds, and the payload
    bits per second sent and received.
    """

    round_trip_s: float
    sent_bps: float
    received_bps: float


async def measure_link(connection: Connection, tries: int = 5) -> LinkRates:
    """Measure the link of a connection on which nothing else is sent meanwhile.

    A rate is the bits of a ping divided by the time that it takes longer than an empty one. Pings
    grow from 16 KiB until that time is a quarter of a second, or until they have MAX_PING_BYTES;
    the fastest of three of that size counts. Raises NetworkError.
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
