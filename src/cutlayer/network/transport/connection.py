"""A connection between the server and one device: its lanes, its messages, its end."""

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from cutlayer.errors import CutlayerError, NetworkError, RefusedError
from cutlayer.harmless import harmless
from cutlayer.network.transport import messages
from cutlayer.network.transport.lane import Counters, Frame, LaneStream, Write
from cutlayer.network.transport.limits import Lane, Limits
from cutlayer.network.transport.messages import Bye, Hello, Message, Ping, Pong

How = Literal["leave", "close", "drop"]

_FAREWELL_S = 2.0


class Connection:
    """One end of a connection: sends and receives frames and messages, and says why it is over.

    name: the device's, from its certificate if there are certificates. hello: the device's first
    message. check: called at every message; raises if the device is no longer trusted
    (RefusedError: for good). at_fault: whether the connection ended because the other side sent
    something that is not allowed.
    """

    def __init__(
        self,
        limits: Limits,
        by_server: bool,
        name: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.hello: Hello | None = None
        self.reason = ""
        self.final = False
        self.at_fault = False
        self.how: How = "drop"
        self._limits, self._by_server, self._check = limits, by_server, check
        self._lanes: dict[Lane, LaneStream[Any]] = {}
        self._control: LaneStream[Message] | None = None
        self._began = self._heard = time.monotonic()
        self._over = asyncio.Event()
        self._at_end: list[Callable[[], object]] = []
        # Does not start at 0: a peer that guesses the next number could answer before it is asked.
        self._numbers = itertools.count(secrets.randbits(48))
        self._pings: dict[int, tuple[asyncio.Future[bool], int]] = {}

    # Used by the training

    async def send(self, lane: Lane, frame: Frame) -> None:
        """Send a frame; returns when all of it is on its way. Raises NetworkError.

        Waits while the other side still has unread frames of this lane. Cancelling is safe: a frame
        that has begun is still sent whole.
        """
        self._believe()
        await self._frames(lane).send(frame)

    async def receive(self, lane: Lane) -> bytes:
        """The next frame of a lane. Raises NetworkError when the connection is over."""
        return await self._frames(lane).receive()

    async def tell(self, message: Message) -> None:
        """Send a message. Raises NetworkError."""
        self._believe()
        await self._messages().send(messages.encode(message))

    async def hear(self) -> Message:
        """The next message; pings are answered without being returned. Raises NetworkError."""
        return await self._messages().receive()

    async def ping(self, payload_bytes: int = 0, answer_bytes: int = 0) -> float:
        """Seconds until `payload_bytes` bytes are answered with `answer_bytes` bytes."""
        number = next(self._numbers)
        answered = asyncio.get_running_loop().create_future()
        self._pings[number] = (answered, answer_bytes)
        start = time.perf_counter()
        try:
            await self.tell(Ping(number, bytes(payload_bytes), answer_bytes))
            if not await answered:
                raise self.error
        finally:
            self._pings.pop(number, None)
        return time.perf_counter() - start

    async def close(self, reason: str, final: bool = False) -> None:
        """End the connection and tell the other side why. final: the device must not come back."""
        reason = harmless(reason)  # it may name a file whose name is not valid text
        if not self._by_server and not self.over:
            try:
                async with asyncio.timeout(_FAREWELL_S):
                    await self.tell(Bye(reason[:512]))
                    await self.wait_closed()
            except (NetworkError, TimeoutError):
                pass  # it is over either way
        self.end(reason, final, how="close")

    async def wait_closed(self) -> str:
        """Wait until the connection is over; returns why."""
        await self._over.wait()
        return self.reason

    @property
    def over(self) -> bool:
        """Whether the connection has ended."""
        return self._over.is_set()

    @property
    def error(self) -> NetworkError:
        """The error that is raised when a connection that is over is still used."""
        kind = RefusedError if self.final else NetworkError
        return kind(f"connection{f' of device {self.name}' if self.name else ''}: {self.reason}")

    def lane(self, lane: Lane) -> LaneStream[Any]:
        """A lane, for its counters and queues."""
        return self._lanes[lane]

    @property
    def counters(self) -> dict[Lane, Counters]:
        """Counts of frames and bytes so far, by lane."""
        # Iterates over a copy, since the metrics call it from another thread.
        return {lane: stream.counters for lane, stream in dict(self._lanes).items()}

    # Used by the listener and the client

    @property
    def whole(self) -> bool:
        """Whether all lanes are there."""
        return len(self._lanes) == len(Lane)

    @property
    def age_s(self) -> float:
        """Seconds since the connection began."""
        return time.monotonic() - self._began

    def attach(self, lane: Lane, write: Write) -> None:
        """Join a lane's stream to the connection. Raises NetworkError when it has one."""
        if self.over:
            raise self.error
        if lane in self._lanes:
            raise NetworkError(f"stream: lane {lane} is open already")
        window = self._limits.window(lane, self._by_server)
        common = {
            "window": window,
            "max_bytes": self._limits.size(lane),
            "chunk_bytes": self._limits.chunk_bytes,
        }
        fail = partial(self._fail, lane)
        stall_s = self._limits.stall_s
        if lane is Lane.CONTROL:
            control: LaneStream[Message] = LaneStream(
                write, self._message, fail, stall_s=stall_s, **common
            )
            self._lanes[lane] = self._control = control
        else:
            self._lanes[lane] = LaneStream(write, _as_it_is, fail, stall_s=stall_s, **common)

    def feed(self, lane: Lane, message: bytes) -> None:
        """Take a message of a lane's stream; one that is not allowed ends the connection."""
        if self.over:
            return
        self._heard = time.monotonic()
        try:
            self._check()
            self._lanes[lane].feed(message)
        except CutlayerError as error:
            self.at_fault = True
            self.end(str(error), final=isinstance(error, RefusedError))

    def look_after(self) -> None:
        """End the connection if it is silent, stalled or no longer trusted."""
        try:
            self._believe()
        except NetworkError:
            return
        if time.monotonic() - self._heard > self._limits.idle_s:
            self.end(f"nothing came for {self._limits.idle_s:g} s")
        for lane, stream in self._lanes.items():
            if stream.stalled_for_s > self._limits.stall_s:
                self._fail(lane, "a frame began but was not continued")

    def at_end(self, callback: Callable[[], object]) -> None:
        """Have something called once when the connection is over."""
        self._at_end.append(callback)

    def end(self, reason: str, final: bool = False, how: How = "drop") -> None:
        """End the connection here and now; only the first reason counts.

        final: the device must not come back. how: whether the other side left, this side closed the
        connection, or it broke.
        """
        if self.over:
            return
        self.reason, self.final, self.how = harmless(reason), final, how
        self._over.set()
        for stream in self._lanes.values():
            stream.end(self.error)
        for answered, _ in self._pings.values():
            if not answered.done():
                answered.set_result(False)
        callbacks, self._at_end = self._at_end, []  # callbacks keep the objects they call alive
        for callback in callbacks:
            callback()

    # Internal

    def _believe(self) -> None:
        if not self.over:
            try:
                self._check()
            except CutlayerError as error:
                self.end(str(error), final=isinstance(error, RefusedError))
        if self.over:
            raise self.error

    def _frames(self, lane: Lane) -> LaneStream[bytes]:
        stream = self._lanes.get(lane)
        if stream is None or stream is self._control:
            raise NetworkError(f"lane {lane}: it carries no frames: name up or down")
        return stream

    def _messages(self) -> LaneStream[Message]:
        if self._control is None:
            raise NetworkError("connection: it has no control lane yet: wait for connect")
        return self._control

    def _fail(self, lane: Lane, reason: str) -> None:
        self.end(f"lane {lane}: {reason}")

    def _message(self, frame: bytes) -> Message | None:
        """The message that `hear` returns; None for a message that is answered here."""
        message = messages.decode(frame)
        if isinstance(message, Ping):
            if self._messages().waiting >= self._limits.messages_in_flight:
                raise NetworkError("message: pings came and their answers were not taken")
            self._messages().post(
                messages.encode(Pong(message.number, bytes(message.answer_bytes)))
            )
        elif isinstance(message, Pong):
            answered, size = self._pings.get(message.number, (None, 0))
            if answered is not None and not answered.done():
                if len(message.payload) != size:
                    raise NetworkError(
                        f"message: a ping of {size} bytes was answered with {len(message.payload)}"
                    )
                answered.set_result(True)
        elif isinstance(message, Bye):
            self.end(f"the other side left ({harmless(message.reason)})", how="leave")
        else:
            return message
        return None


def _as_it_is(frame: bytes) -> bytes:
    return frame
