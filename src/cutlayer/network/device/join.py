"""A device of a network: joins a server, fetches its part of the model, and takes part in rounds.

An event loop handles the network and a separate thread computes, so that the device answers the
server even while it computes for long.
"""

import asyncio
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from cutlayer import __version__
from cutlayer.data.reading import check_there
from cutlayer.data.report import LoadReport
from cutlayer.errors import (
    CutlayerError,
    FrameError,
    NetworkError,
    RefusedError,
    RunError,
)
from cutlayer.network.device.machine import Machine, describe_machine
from cutlayer.network.device.participant import Participant, Preparation, Site
from cutlayer.network.transport.backoff import Backoff, reconnecting
from cutlayer.network.transport.client import connect
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.event_log import EventLog
from cutlayer.network.transport.identity import Identity
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.messages import (
    Done,
    Hello,
    LightTask,
    Probe,
    Ready,
    RoundBegin,
    RoundEnd,
    StepDone,
    Task,
)
from cutlayer.settings.precision import Precision
from cutlayer.train.exchange import Payload
from cutlayer.train.opening import Opening

Value = TypeVar("Value")
Say = Callable[[str], None]


@dataclass(frozen=True)
class JoinOptions:
    """The server that a device joins, its identity, and its own data and model."""

    address: str
    """HOST:PORT of the server."""

    identity: Identity | None = None
    """The device's key and certificate; None: it joins without them, by its name."""

    name: str | None = None
    """The device's name; needed only without an identity, since that has a name."""

    number: int | None = None
    """The number in the job that it asks for, from 0; None: the server chooses."""

    data: str | Path | None = None
    """A file or folder with its own samples; None: the part of the job's data that a device with
    this number has in a simulation.
    """

    model: str | Path | None = None
    """A checkpoint on this machine that holds its part of the model; None: the server sends it."""

    backoff: Backoff = Backoff()  # noqa: RUF009 - frozen
    """How long it waits before it connects again."""

    light: bool | None = None
    """Whether it runs the server's programs by onnxruntime, without torch, on samples of its own;
    None: it does if torch is not installed.
    """

    provider: str = "cpu"
    """The hardware that computes on a light device: cpu, cuda, tensorrt, coreml, qnn or openvino;
    the installed onnxruntime must support it.
    """

    precision: Precision = "float32"
    """Numbers in which a light device computes: float32, float16, or int8 (matrices)."""

    probe: bool = False
    """Measure memory and time of a batch on this device, say them, and leave again."""

    @property
    def is_light(self) -> bool:
        """Whether it is a light device."""
        return find_spec("torch") is None if self.light is None else self.light


def join(options: JoinOptions, *, say: Say = print, log: str | Path | None = None) -> None:
    """Take part until the job is finished; connects again by itself when the connection is lost.

    options: which server, with which key and data (see JoinOptions).
    say: called with each sentence about what happens. log: a file that gets a JSON object for each
    event, or "-" for standard error. Returns when the job is done, in a notebook too.
    Raises RefusedError if the server refuses the device, and DataError, ModelError or RunError if
    the device cannot take part.
    """
    if options.data is not None:
        check_there(Path(options.data))
    stop = _Stop()

    async def until_stopped() -> None:
        with stop.of_this_task():
            await attend(options, say, EventLog(log))

    try:
        if not _inside_event_loop():
            asyncio.run(until_stopped())
            return
        with ThreadPoolExecutor(1, thread_name_prefix="device") as thread:
            joined = thread.submit(asyncio.run, until_stopped())
            try:
                joined.result()
            except KeyboardInterrupt:
                stop.now()
                raise
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _preparation(options: JoinOptions) -> Preparation:
    """The function that prepares a device of this kind; imports only what that kind needs."""
    if not options.is_light:
        if (options.provider, options.precision) != ("cpu", "float32"):
            raise RunError(
                f"--provider, --precision: {options.provider} and {options.precision} are for "
                "light devices: add --light"
            )
        from cutlayer.network.device.torch_participant import prepare

        return prepare
    if options.data is None:
        raise RunError(
            "--share: a light device takes part with samples of its own: name them with --data, "
            "or join with torch"
        )
    if options.model is not None:
        raise RunError(
            f"--model: a light device runs the server's programs and cannot read {options.model}: "
            "leave it out"
        )
    from cutlayer.light.graph import Compute
    from cutlayer.network.device.light_participant import LightPreparation

    return LightPreparation(Compute(options.provider))


def _inside_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Stop:
    """Lets a device leave in good order: by a signal, or from another thread."""

    def __init__(self) -> None:
        self._stop: Callable[[], object] = lambda: None

    @contextmanager
    def of_this_task(self) -> Iterator[None]:
        """Cancel the running task on SIGTERM and SIGINT, if this thread gets signals."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._stop = partial(loop.call_soon_threadsafe, task.cancel)
        # A signal handler must not raise: the exception could occur anywhere in the event loop.
        with suppress(NotImplementedError):  # Windows: asyncio.run cancels the task on SIGINT
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, task.cancel)
        yield

    def now(self) -> None:
        """Cancel the task, from another thread."""
        with suppress(RuntimeError):  # the event loop has just ended by itself
            self._stop()


async def attend(options: JoinOptions, say: Say, log: EventLog) -> None:
    """See `join`; cancelling it says goodbye to the server and leaves."""
    with ThreadPoolExecutor(1, thread_name_prefix="compute") as thread:
        await _DeviceSession(options, say, log, thread).run()


@dataclass(frozen=True)
class _Prepared:
    task: Task | LightTask
    device: Participant


class _DeviceSession:
    """One device, over all of its connections."""

    def __init__(
        self, options: JoinOptions, say: Say, log: EventLog, thread: ThreadPoolExecutor
    ) -> None:
        self._options, self._say, self._log, self._thread = options, say, log, thread
        self._machine: Machine | None = None
        self._prepared: _Prepared | None = None
        self._told: LoadReport | None = None
        self._preparation = _preparation(options)
        self._secret = secrets.randbits(63)

    async def run(self) -> None:
        """Connect, and again after each lost connection, until the job is done."""
        self._machine = await self._compute(describe_machine)
        async with aclosing(
            reconnecting(self._connect, self._options.backoff, self._tell_wait)
        ) as connections:
            async for connection in connections:
                try:
                    if await self._take_part(connection):
                        return
                except (asyncio.CancelledError, CutlayerError) as error:
                    await connection.close(str(error) or "the device stops")
                    if isinstance(error, RefusedError) or not isinstance(error, NetworkError):
                        raise

    async def _compute(self, work: Callable[..., Value], *given: Any) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)

    async def _connect(self) -> Connection:
        options, machine = self._options, self._machine
        assert machine is not None
        hello = Hello(
            version=__version__,
            job=self._prepared.task.digest if self._prepared else None,
            samples=self._prepared.device.samples if self._prepared else 0,
            device=options.name,
            number=options.number,
            processor=machine.processor,
            cores=machine.cores,
            memory_bytes=machine.memory_bytes,
            flops_per_s=machine.flops_per_s,
            light=self._options.precision if self._options.is_light else None,
        )
        return await connect(options.address, hello, options.identity)

    def _tell_wait(self, error: NetworkError, seconds: float) -> None:
        self._say(f"{error}; trying again in {seconds:.1f} s")
        self._log.write("wait", seconds=round(seconds, 3), reason=str(error))

    async def _take_part(self, connection: Connection) -> bool:
        """Serve one connection; returns whether the job is done. NetworkError when it breaks."""
        task = await connection.hear()
        if isinstance(task, Done):  # the job was done while this device was away
            return await self._leave(connection)
        if not isinstance(task, Task | LightTask):
            raise RefusedError("task: another message came first: run the same cutlayer")
        site = self._site(connection)
        if self._prepared is None or self._prepared.task != task:
            self._prepared = _Prepared(task, await self._preparation(site, task))
        device = self._prepared.device
        if self._options.probe:
            self._say(await device.measured(site))
            await connection.close("the device only measured itself")
            return True
        await connection.tell(self._ready(task, device))
        report = device.report
        if report is not None and self._told != report:
            self._told = report
            self._say(report.line)
            self._log.write("data", **report.record())
        self._say(f"device {device.number}: ready with {device.samples} samples")
        self._log.write("ready", number=device.number, samples=device.samples)
        while True:
            match await connection.hear():
                case RoundBegin() as message:
                    try:
                        await self._round(site, device, message)
                    except (FrameError, RunError) as fault:
                        # The round is lost on this device; the next one may go well.
                        self._say(str(fault))
                        raise NetworkError(str(fault)) from None
                case Probe() as message:
                    await device.fetch(site, message.programs)
                    await connection.tell(await self._compute(device.probe, message))
                case RoundEnd(round=round, late=late):
                    self._say(f"round {round + 1} is over{', too late for us' if late else ''}")
                    self._log.write("round", round=round, late=late)
                case Done():
                    return await self._leave(connection)
                case message:
                    raise NetworkError(f"message: {type(message).__name__} was not expected")

    async def _leave(self, connection: Connection) -> bool:
        await connection.close("the job is done")
        self._say("the job is done")
        return True

    def _site(self, connection: Connection) -> Site:
        options = self._options
        return Site(
            connection,
            self._compute,
            self._tell_piece(),
            None if options.data is None else Path(options.data),
            None if options.model is None else Path(options.model),
        )

    def _tell_piece(self) -> Callable[[str, int, int], None]:
        told = [0]

        def tell(name: str, held: int, size: int) -> None:
            if size > 1e5 and (held == size or held - told[0] > 10e6):
                told[0] = 0 if held == size else held
                self._say(f"fetched {held / 1e6:.1f} of {size / 1e6:.1f} MB of {name}")

        return tell

    def _ready(self, task: Task | LightTask, device: Participant) -> Ready:
        own = self._options.data is not None
        # The server knows the job's seed: it could compute that seed's noise and subtract it.
        labels = device.labels(self._secret if own else device.job_seed)
        data = self._secret if own else None
        return Ready(task.digest, device.samples, own, labels, device.basis, data)

    async def _round(self, site: Site, device: Participant, message: RoundBegin) -> None:
        connection = site.connection
        adapter = await connection.receive(Lane.DOWN) if message.adapter else None
        basis = await connection.receive(Lane.DOWN) if message.basis else None
        held = await connection.receive(Lane.DOWN) if message.held else None
        changes = await connection.receive(Lane.DOWN) if message.change_basis else None
        ways = {way: bytes(await connection.receive(Lane.DOWN)) for way in message.ways}
        await device.fetch(site, message.programs)
        opening = Opening(
            adapter,
            basis,
            message.plain_steps,
            held,
            ways,
            changes,
            message.change_steps,
            message.held_digest,
        )
        await self._compute(device.begin, message, opening)
        await self._walk_steps(connection, device, message.round)
        for _ in range(device.questions):
            question = bytes(await connection.receive(Lane.DOWN))
            await connection.send(Lane.UP, await self._compute(device.answer, question))
        uploaded = await self._compute(device.upload)
        if uploaded is not None:
            await connection.send(Lane.UP, uploaded)
        device.end()

    async def _walk_steps(self, connection: Connection, device: Participant, round: int) -> None:
        """Do all exchanges of all steps. While a frame is sent up, the next is already computed."""
        sending: asyncio.Task[None] | None = None
        try:
            for step in range(device.steps):
                for exchange in device.exchanges(step):
                    if exchange.up:
                        payload = await self._compute(device.send, exchange, step)
                        if sending is not None:
                            await sending
                        sending = asyncio.create_task(_send(connection, round, step, payload))
                    else:
                        frame = await connection.receive(Lane.DOWN)
                        await self._compute(device.receive, exchange, step, frame)
            if sending is not None:
                await sending
        finally:
            if sending is not None:
                sending.cancel()


async def _send(connection: Connection, round: int, step: int, payload: Payload) -> None:
    """Send a frame, or a loss as a message."""
    if isinstance(payload, bytes):
        await connection.send(Lane.UP, payload)
    else:
        await connection.tell(StepDone(round, step, payload))
