"""One connected device: what it said of itself, and its answers that training has yet to read."""

import asyncio
from dataclasses import dataclass, field
from typing import TypeVar

from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.link_rates import LinkRates
from cutlayer.network.transport.messages import Hello, Probed, Ready, StepDone
from cutlayer.settings.precision import Precision

Answer = TypeVar("Answer")

# A device with more unread answers than this breaks the protocol (RemoteLink allows as many losses
# as a round has steps).
ANSWERS = 4


@dataclass(eq=False)
class ConnectedDevice:
    """A device that is connected; ready: its Ready message, None before it came.

    rates: as the server measured them. basis: the fingerprint of the one that it has; change_basis,
    and by name (see train/ways.py) ways: the same, of those that it was sent since it connected.
    """

    number: int
    connection: Connection
    ready: Ready | None = None
    rates: LinkRates | None = None
    basis: int | None = None
    change_basis: int | None = None
    ways: dict[str, int] = field(default_factory=dict)
    losses: asyncio.Queue[StepDone] = field(default_factory=lambda: asyncio.Queue(ANSWERS))
    probes: asyncio.Queue[Probed] = field(default_factory=lambda: asyncio.Queue(ANSWERS))

    @property
    def light(self) -> Precision | None:
        """The numbers in which a light device computes; None for others."""
        return self.hello.light

    @property
    def hello(self) -> Hello:
        """The device's first message, which describes it."""
        assert self.connection.hello is not None
        return self.connection.hello

    async def next(self, answers: asyncio.Queue[Answer]) -> Answer:
        """The next answer of one kind. Raises NetworkError when the connection is over first."""
        if not answers.empty():  # an answer that is here counts, even if its time is over
            return answers.get_nowait()
        got = asyncio.ensure_future(answers.get())
        over = asyncio.ensure_future(self.connection.wait_closed())
        try:
            await asyncio.wait({got, over}, return_when=asyncio.FIRST_COMPLETED)
            if not got.done():
                raise self.connection.error
            return got.result()
        finally:
            got.cancel()
            over.cancel()
