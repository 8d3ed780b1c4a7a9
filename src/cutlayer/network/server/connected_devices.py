"""The server's end of its devices: who is there and ready, and what it asks of them.

The network has a thread and an event loop of its own here; training, in the main thread, asks
through `ConnectedDevices.each`. A device that fails is disconnected: it connects again by itself
and takes part from the next round, with nothing left over from the last.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cutlayer import __version__
from cutlayer.errors import CutlayerError, NetworkError, RefusedError
from cutlayer.network.server.roster import Roster
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.event_log import EventLog
from cutlayer.network.transport.identity import Identity
from cutlayer.network.transport.limits import Lane, Limits
from cutlayer.network.transport.listener import Listener, listen
from cutlayer.network.transport.messages import (
    Done,
    Fetch,
    Hello,
    Message,
    Probed,
    Ready,
    StepDone,
    Task,
)

Answer = TypeVar("Answer")

PIECE_BYTES = 2**20
# More answers than these wait for nobody who asked.
_ANSWERS = 4
_FAREWELL_S = 5.0


@dataclass(eq=False)
class ConnectedDevice:
    """A device that is connected; ready once it has said so."""

    number: int
    connection: Connection
    ready: Ready | None = None
    losses: asyncio.Queue[StepDone] = field(default_factory=lambda: asyncio.Queue(_ANSWERS))
    probes: asyncio.Queue[Probed] = field(default_factory=lambda: asyncio.Queue(_ANSWERS))

    @property
    def samples(self) -> int:
        """Samples the device has."""
        assert self.ready is not None
        return self.ready.samples

    @property
    def hello(self) -> Hello:
        """What the device said of itself, and has measured since."""
        assert self.connection.hello is not None
        return self.connection.hello

    async def next(self, answers: asyncio.Queue[Answer]) -> Answer:
        """The next answer of one kind. Raises NetworkError when the connection is over first."""
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


@dataclass(frozen=True)
class JobOffer:
    """What every device is told when it joins, but for its number; folder holds the files."""

    task: Task
    folder: Path


class ConnectedDevices:
    """Lets devices in, tells them what to do, and keeps those that are ready.

    Start it with `open`; `close` ends it.
    """

    def __init__(self, offer: JobOffer, roster: Roster, log: EventLog) -> None:
        self.listener: Listener
        self._offer, self._roster, self._log = offer, roster, log
        self._present: dict[int, ConnectedDevice] = {}
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def open(
        self, address: str, identity: Identity | None, limits: Limits, insecure: bool = False
    ) -> None:
        """Listen on HOST:PORT. Raises NetworkError."""
        self._thread.start()
        self.listener = self._call(listen(address, self._admit, identity, limits, insecure))
        self._call(self._start())

    def close(self, reason: str, done: bool = False) -> None:
        """End every connection, telling the devices why; done: that the job is finished."""
        with suppress(NetworkError):
            self._call(self._stop(reason, done))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # What training uses

    def present(self) -> dict[int, ConnectedDevice]:
        """The devices that are ready, by number."""
        with self._changed:
            return dict(self._present)

    def wait_for_change(self, timeout_s: float) -> None:
        """Wait until a device comes or goes, or the time is over."""
        with self._changed:
            self._changed.wait(timeout_s)

    def each(
        self,
        connected: Iterable[ConnectedDevice],
        act: Callable[[ConnectedDevice], Awaitable[Answer]],
        patience_s: float,
    ) -> dict[int, Answer]:
        """What `act` returns for each device, side by side; one that fails is let go, left out."""

        async def one(device: ConnectedDevice) -> tuple[int, Answer] | None:
            try:
                async with asyncio.timeout(patience_s):
                    return device.number, await act(device)
            except TimeoutError:
                self._drop(device, f"it did not answer within {patience_s:g} s")
            except CutlayerError as error:
                self._drop(device, str(error))
            return None

        async def all_of_them() -> list[tuple[int, Answer] | None]:
            return await asyncio.gather(*map(one, connected))

        return dict(answer for answer in self._call(all_of_them()) if answer is not None)

    def let_go(self, device: ConnectedDevice, reason: str) -> None:
        """Disconnect a device; it may come back."""
        self._loop.call_soon_threadsafe(self._drop, device, reason)

    # Inside, in the network's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, work: Awaitable[Answer]) -> Answer:
        async def run() -> Answer:
            return await work

        future: Future[Answer] = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    async def _start(self) -> None:
        self._keep(self._receive())

    async def _stop(self, reason: str, done: bool) -> None:
        if done:
            connected = list(self._present.values())
            await asyncio.gather(*map(_dismiss, connected))
        for task in self._tasks:
            task.cancel()
        await self.listener.close(reason, final=done)

    def _keep(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _admit(self, name: str, hello: Hello) -> None:
        if hello.version != __version__:
            raise RefusedError(
                f"hello: cutlayer {hello.version} of device {name} is not the server's "
                f"{__version__}: install the same on both"
            )
        if hello.job not in (None, self._offer.task.digest):
            raise RefusedError(
                f"hello: device {name} is ready for another job than the one that is served here: "
                "start cutlayer join again"
            )
        try:
            self._roster.admit(name, hello.number)
        except OSError as error:
            raise NetworkError(
                f"server: it cannot write down who joins ({error.strerror}): come again later"
            ) from None

    async def _receive(self) -> None:
        while True:
            self._keep(self._attend(await self.listener.accept()))

    async def _attend(self, connection: Connection) -> None:
        """Serve one connection until it is over."""
        device = ConnectedDevice(self._roster.numbers[connection.name], connection)
        self._log.write("join", device=connection.name, number=device.number)
        try:
            await connection.tell(_numbered(self._offer.task, device.number))
            while True:
                await self._hear(device, await connection.hear())
        except CutlayerError as error:
            self._drop(device, str(error))
        finally:
            with self._changed:
                if self._present.get(device.number) is device:
                    del self._present[device.number]
                self._changed.notify_all()
            self._log.write(
                "leave", device=connection.name, number=device.number, reason=connection.reason
            )

    async def _hear(self, device: ConnectedDevice, message: Message) -> None:
        """Deal with what a device says. Raises NetworkError for what has no business there."""
        try:
            match message:
                case Fetch() if device.ready is None:
                    await self._hand_over(device.connection, message)
                case Ready(job=self._offer.task.digest) if device.ready is None:
                    device.ready = message
                    with self._changed:
                        self._present[device.number] = device
                        self._changed.notify_all()
                    self._log.write(
                        "ready",
                        device=device.connection.name,
                        number=device.number,
                        samples=message.samples,
                        processor=device.hello.processor,
                        memory_bytes=device.hello.memory_bytes,
                        flops_per_s=device.hello.flops_per_s,
                        uplink_bps=device.hello.uplink_bps,
                        downlink_bps=device.hello.downlink_bps,
                    )
                case StepDone():
                    device.losses.put_nowait(message)
                case Probed():
                    device.probes.put_nowait(message)
                case _:
                    raise NetworkError(f"message: {type(message).__name__} was not due")
        except asyncio.QueueFull:
            raise NetworkError(
                f"message: {type(message).__name__} came that nobody asked for"
            ) from None

    async def _hand_over(self, connection: Connection, wanted: Fetch) -> None:
        """Send a file of the part from an offset on, piece by piece."""
        sizes = {file.name: file.size for file in self._offer.task.files}
        size = sizes.get(wanted.file, -1)
        if not 0 <= wanted.offset < size:
            raise NetworkError(f"message: there is no {wanted.file} from byte {wanted.offset} on")
        with (self._offer.folder / wanted.file).open("rb") as file:
            file.seek(wanted.offset)
            while piece := file.read(PIECE_BYTES):
                await connection.send(Lane.DOWN, piece)

    def _drop(self, device: ConnectedDevice, reason: str) -> None:
        if not device.connection.over:
            self._log.write("drop", device=device.connection.name, reason=reason)
            device.connection.end(reason)


async def _dismiss(device: ConnectedDevice) -> None:
    with suppress(NetworkError, TimeoutError):
        async with asyncio.timeout(_FAREWELL_S):
            await device.connection.tell(Done())
            await device.connection.wait_closed()  # the device leaves when it has heard


def _numbered(task: Task, number: int) -> Task:
    return Task(number, task.job, task.digest, task.classes, task.cut, task.files)
