"""Tracks connected devices, and drops any that time out or send something that is not allowed.

The network runs in its own thread and event loop; training, in the main thread, asks devices
through `ConnectedDevices.each`. A device that fails is disconnected: it connects again by itself
and takes part from the next round, with nothing left over from the last.
"""

import asyncio
import functools
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cutlayer import __version__
from cutlayer.errors import CutlayerError, NetworkError, RefusedError
from cutlayer.harmless import harmless
from cutlayer.network.server.light_offers import LightOffer
from cutlayer.network.server.roster import Roster
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.event_log import EventLog
from cutlayer.network.transport.identity import Identity
from cutlayer.network.transport.limits import Lane, Limits
from cutlayer.network.transport.link_rates import LinkRates, measure_link
from cutlayer.network.transport.listener import Listener, listen
from cutlayer.network.transport.messages import (
    Done,
    Fetch,
    Hello,
    LightTask,
    Message,
    Probed,
    Ready,
    StepDone,
    Task,
)
from cutlayer.wire.program_ports import Precision

Answer = TypeVar("Answer")

PIECE_BYTES = 2**20
# A device with more unread answers than this breaks the protocol (RemoteLink allows as many losses
# as a round has steps).
ANSWERS = 4
_FAREWELL_S = 5.0
_MEASURE_S = 60.0
# At most this many departures, the newest, are kept until they are asked for.
_NEWS = 256

CheckReady = Callable[[int, Ready], None]
"""Checks the Ready message of a device (by number); raises RefusedError to refuse the device.
"""


@dataclass(eq=False)
class ConnectedDevice:
    """A device that is connected; ready: its Ready message, None before it came.

    rates: of its link, as the server measured them. basis: the fingerprint of the basis it has.
    gradient_basis: the fingerprint of the gradients' basis that it was sent since it connected.
    """

    number: int
    connection: Connection
    ready: Ready | None = None
    rates: LinkRates | None = None
    basis: int | None = None
    gradient_basis: int | None = None
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


@dataclass(frozen=True)
class JobOffer:
    """What every device is told when it joins, except for its number.

    task: the message. folder: of the files of the model's part. check: checks the Ready message of
    a device. no_light: why light devices are refused; None if they are accepted.
    """

    task: Task
    folder: Path
    check: CheckReady = lambda number, ready: None
    no_light: str | None = None


@dataclass(frozen=True)
class Departure:
    """A device that has left or was turned away: its number, its name, and why."""

    number: int
    name: str
    reason: str


class ConnectedDevices:
    """Lets devices in, tells them what to do, and keeps those that are ready.

    Start it with `open`; `close` ends it.
    """

    def __init__(self, offer: JobOffer, roster: Roster, log: EventLog) -> None:
        self.listener: Listener
        self._offer, self._roster, self._log = offer, roster, log
        self._present: dict[int, ConnectedDevice] = {}
        self._attended: set[ConnectedDevice] = set()
        self._departures: deque[Departure] = deque(maxlen=_NEWS)
        self._turned_away: set[int] = set()
        self._left_unready: set[str] = set()
        self._identity: Identity | None = None
        self._light: dict[Precision, Future[LightOffer]] = {}
        own = {file.name: offer.folder / file.name for file in offer.task.files}
        self._files: dict[Precision | None, dict[str, Path]] = {None: own}
        self._done = False
        self._told_done: set[str] = set()
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def open(
        self, address: str, identity: Identity | None, limits: Limits, insecure: bool = False
    ) -> None:
        """Listen on HOST:PORT. Raises NetworkError."""
        self._identity = identity
        self._thread.start()
        self.listener = self._call(listen(address, self._admit, identity, limits, insecure))
        self._call(self._start())

    def close(self, reason: str, done: bool = False, farewell_s: float = 0.0) -> None:
        """End every connection, telling the devices why.

        done: whether the job is finished. farewell_s: how long to wait for devices that are away,
        so that they come back and learn it.
        """
        with suppress(NetworkError, KeyboardInterrupt):
            self._call(self._stop(reason, done, farewell_s))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # What training uses

    def present(self) -> dict[int, ConnectedDevice]:
        """The devices that are ready, by number."""
        with self._changed:
            return dict(self._present)

    def turned_away(self) -> set[int]:
        """The numbers of devices whose Ready message was refused; the run never waits for them."""
        with self._changed:
            return set(self._turned_away)

    def departures(self) -> list[Departure]:
        """The devices that have left since the last call."""
        with self._changed:
            found = list(self._departures)
            self._departures.clear()
            return found

    def light_wanted(self) -> dict[Precision, Future[LightOffer]]:
        """The offers for which light devices wait, until the training thread makes the programs."""
        with self._changed:
            return {one: offer for one, offer in self._light.items() if not offer.done()}

    def hand_out(self, precision: Precision, files: Iterable[Path]) -> None:
        """Let light devices of one precision fetch more files."""
        with self._changed:
            there = self._files.setdefault(precision, {})
            self._files[precision] = there | {file.name: file for file in files}

    def names(self) -> dict[int, str]:
        """The names of the devices that have a number in this run, by number."""
        return {number: name for name, number in self._roster.numbers.items()}

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
        """What `act` returns for each device; all devices are asked at the same time.

        A device that fails, or takes longer than patience_s, is lost: disconnected and left out.
        """

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

    # Below: runs in the network's thread

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

    async def _stop(self, reason: str, done: bool, farewell_s: float) -> None:
        if done:
            self._done = True
            await asyncio.gather(*map(self._dismiss, list(self._attended)))
            until, revoked = time.monotonic() + farewell_s, self._revoked()
            while self._away() - revoked and time.monotonic() < until:
                await asyncio.sleep(0.05)
        for task in self._tasks:
            task.cancel()
        await self.listener.close(reason, final=done)

    def _away(self) -> set[str]:
        """Devices with a number that have not yet been told that the job is done."""
        waited_for = self._roster.numbers.keys() - self._told_done
        return {n for n in waited_for if self._roster.numbers[n] not in self._turned_away}

    async def _dismiss(self, device: ConnectedDevice) -> None:
        with suppress(NetworkError, TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await device.connection.tell(Done())
                self._told_done.add(device.connection.name)
                await device.connection.wait_closed()  # the device leaves once it knows

    def _revoked(self) -> set[str]:
        """The names of devices whose keys were revoked; none without keys."""
        known = self._identity.revocations if self._identity else None
        return known.names() if known else set()

    def _keep(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _admit(self, name: str, hello: Hello) -> None:
        if hello.version != __version__:
            raise RefusedError(
                f"hello: cutlayer {harmless(hello.version)} of device {name} is not the server's "
                f"{__version__}: install the same on both"
            )
        if hello.light is not None and self._offer.no_light is not None:
            raise RefusedError(f"{self._offer.no_light} (device {name} runs without it)")
        if hello.job not in (None, self._offer.task.digest):
            raise RefusedError(
                f"hello: device {name} is ready for another job than the one that is served here: "
                "start cutlayer join again"
            )
        connected = self.listener.connections
        # Called only if no number is free, since it reads every certificate ever signed.
        revoked = functools.cache(self._revoked)

        def replaceable(owner: str) -> bool:
            # Without keys anybody can take any name, so a device that is away does not keep its
            # number.
            return self._identity is None and owner not in connected

        self._roster.hold(
            name, hello.number, connected, lambda owner: owner in revoked(), replaceable
        )

    async def _receive(self) -> None:
        while True:
            self._keep(self._attend(await self.listener.accept()))

    async def _attend(self, connection: Connection) -> None:
        """Serve one connection until it is over."""
        name = connection.name
        device = ConnectedDevice(self._roster.number(name), connection)
        self._log.write("join", device=name, number=device.number)
        self._attended.add(device)
        try:
            if self._done:
                await self._dismiss(device)
            await connection.tell(await self._task_of(device))
            while True:
                await self._hear(device, await connection.hear())
        except CutlayerError as error:
            if device.ready is None and (connection.at_fault or not connection.over):
                self._turn_away(device, str(error))
            self._drop(device, str(error), final=isinstance(error, RefusedError))
        finally:
            self._attended.discard(device)
            self._part_from(device)

    def _turn_away(self, device: ConnectedDevice, reason: str) -> None:
        """Note that the run need not wait for a device; reported once, however often it retries."""
        with self._changed:
            if device.number not in self._turned_away:
                self._turned_away.add(device.number)
                self._departures.append(Departure(device.number, device.connection.name, reason))
            self._changed.notify_all()

    def _part_from(self, device: ConnectedDevice) -> None:
        """Note that a device is gone; if it was never ready, the number it held is free again."""
        connection, number = device.connection, device.number
        with self._changed:
            was_ready = self._present.get(number) is device
            if was_ready:
                del self._present[number]
            # A device that leaves before it is ready is reported once, however often it retries.
            new = connection.name not in self._left_unready
            if not was_ready and new and len(self._left_unready) < _NEWS:
                self._left_unready.add(connection.name)
            if (was_ready or new) and number not in self._turned_away and not self._done:
                self._departures.append(Departure(number, connection.name, connection.reason))
            self._changed.notify_all()
        if self.listener.connections.get(connection.name) in (None, connection):
            self._roster.let_go(connection.name)
        self._log.write("leave", device=connection.name, number=number, reason=connection.reason)

    async def _task_of(self, device: ConnectedDevice) -> Task | LightTask:
        """The task for a device; a light device waits until its programs are made.

        Raises RefusedError if they cannot be made, NetworkError when the connection ends before.
        """
        if device.light is None:
            return msgspec.structs.replace(self._offer.task, number=device.number)
        with self._changed:
            wanted = self._light.setdefault(device.light, Future())
            self._changed.notify_all()
        made = asyncio.wrap_future(wanted)
        over = asyncio.ensure_future(device.connection.wait_closed())
        due: set[asyncio.Future[Any]] = {made, over}
        try:
            await asyncio.wait(due, return_when=asyncio.FIRST_COMPLETED)
            if not made.done():
                raise device.connection.error
            return msgspec.structs.replace(made.result().task, number=device.number)
        finally:
            over.cancel()

    async def _hear(self, device: ConnectedDevice, message: Message) -> None:
        """Handle a message of a device. Raises NetworkError for one that was not expected."""
        try:
            match message:
                case Fetch() if device.ready is None or device.light is not None:
                    await self._hand_over(device, message)
                case Ready(job=self._offer.task.digest) if device.ready is None:
                    await self._welcome(device, message)
                case StepDone():
                    device.losses.put_nowait(message)
                case Probed():
                    device.probes.put_nowait(message)
                case _:
                    raise NetworkError(f"message: {type(message).__name__} was not expected")
        except asyncio.QueueFull:
            raise NetworkError(f"message: {type(message).__name__} came unasked") from None

    async def _welcome(self, device: ConnectedDevice, ready: Ready) -> None:
        """Count a device as ready: check its message, measure its link, write down its number."""
        self._offer.check(device.number, ready)
        device.ready, device.basis = ready, ready.basis
        try:
            async with asyncio.timeout(_MEASURE_S):
                device.rates = await measure_link(device.connection)
        except TimeoutError:
            raise NetworkError(
                f"link: device {device.number} did not answer pings in {_MEASURE_S:g} s"
            ) from None
        try:
            self._roster.take(device.connection.name)
        except OSError as error:
            raise NetworkError(
                f"server: it cannot write down who joins ({error.strerror}): come again later"
            ) from None
        with self._changed:
            self._present[device.number] = device
            self._turned_away.discard(device.number)
            self._changed.notify_all()
        hello = device.hello
        self._log.write(
            "ready",
            device=device.connection.name,
            number=device.number,
            samples=ready.samples,
            processor=hello.processor,
            memory_bytes=hello.memory_bytes,
            flops_per_s=hello.flops_per_s,
            uplink_bps=device.rates.received_bps,
            downlink_bps=device.rates.sent_bps,
        )

    async def _hand_over(self, device: ConnectedDevice, wanted: Fetch) -> None:
        """Send a file of the part or of a program, from an offset on, piece by piece."""
        path = self._files.get(device.light, {}).get(wanted.file)
        size = -1 if path is None else path.stat().st_size
        if path is None or not 0 <= wanted.offset < size:
            raise NetworkError(f"message: there is no {wanted.file} from byte {wanted.offset} on")
        with path.open("rb") as file:
            file.seek(wanted.offset)
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                await device.connection.send(Lane.DOWN, piece)

    def _drop(self, device: ConnectedDevice, reason: str, final: bool = False) -> None:
        if not device.connection.over:
            self._log.write("drop", device=device.connection.name, reason=reason)
            device.connection.end(reason, final)
