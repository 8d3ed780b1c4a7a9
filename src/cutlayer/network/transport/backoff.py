"""Waits between attempts to connect: they double up to a limit, with jitter."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass

from cutlayer.errors import NetworkError, RefusedError
from cutlayer.network.transport.connection import Connection

OnWait = Callable[[NetworkError, float], None]
"""Called with why a connection failed, and in how many seconds it is tried again."""


@dataclass(frozen=True)
class Backoff:
    """How long to wait between attempts to connect.

    The n-th wait is drawn uniformly between a half and the whole of min(longest_s, first_s 2^n),
    so that the devices of a fleet whose server was away do not return all at once.
    """

    first_s: float = 0.5
    """The most seconds of the first wait; each later wait may be twice the one before."""

    longest_s: float = 60.0
    """The most seconds of any wait."""

    steady_s: float = 30.0
    """After a connection that held for this many seconds, the waits begin again with the first."""

    def waits(self, rng: random.Random | None = None) -> Iterator[float]:
        """The waits in seconds, without end."""
        rng = rng or random.Random()
        wait = self.first_s
        while True:
            yield rng.uniform(wait / 2, wait)
            wait = min(self.longest_s, 2 * wait)


async def reconnecting(
    connect: Callable[[], Awaitable[Connection]],
    backoff: Backoff | None = None,
    on_wait: OnWait | None = None,
) -> AsyncGenerator[Connection, None]:
    """Yields a new connection each time the one before is over, until the loop is left.

    The loop's body may `continue` as soon as it gets a NetworkError. Raises RefusedError when the
    server refuses the device for good.
    """
    backoff = backoff or Backoff()
    waits = backoff.waits()
    while True:
        began = time.monotonic()
        try:
            connection = await connect()
            try:
                yield connection
                await connection.wait_closed()
            finally:
                connection.end("the device is done with it")
            error = connection.error
        except NetworkError as failure:
            error = failure
        if isinstance(error, RefusedError):
            raise error
        if time.monotonic() - began >= backoff.steady_s:
            waits = backoff.waits()
        wait = next(waits)
        if on_wait is not None:
            on_wait(error, wait)
        await asyncio.sleep(wait)
