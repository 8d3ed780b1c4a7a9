"""One lane: frames of bytes over one stream, both ways; credits bound how many are on their way."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

from cutlayer.errors import NetworkError
from cutlayer.network.transport.chunks import Assembly, grant, split

Frame = bytes | bytearray | memoryview
Write = Callable[[bytes], Awaitable[None]]
Item = TypeVar("Item")

# gRPC's own prefix of each message: a flag and a length.
_PREFIX_BYTES = 5
_MAX_CREDIT = 2**20


@dataclass
class Counters:
    """Counts of a lane: frames, their bytes, and overhead bytes.

    Overhead is that of this layer (chunk headers, credits) and gRPC's message prefixes; the bytes
    that HTTP/2, TLS and TCP add cannot be counted here.
    """

    frames_sent: int = 0
    frames_received: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    sent_overhead_bytes: int = 0
    received_overhead_bytes: int = 0

    def add(self, other: "Counters") -> None:
        """Add another lane's counts to these."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@dataclass(eq=False)
class _Outgoing:
    """A frame that is being sent. sent: whether all of it is on its way.

    The future holds a flag and never an error: the error's traceback would keep the waiting code
    alive, and that code the error.
    """

    frame: memoryview
    sent: asyncio.Future[bool]

    def settle(self, sent: bool) -> None:
        if not self.sent.done():
            self.sent.set_result(sent)


class LaneStream(Generic[Item]):
    """Sends and receives frames over one stream.

    write: puts one message on the stream. accept: turns each whole frame into what `receive`
    returns, or returns None if the frame needs no `receive`. fail: called with a reason when
    writing fails. window: how many frames may come before the other side must wait for `receive`
    (0: none).
    """

    def __init__(
        self,
        write: Write,
        accept: Callable[[bytes], Item | None],
        fail: Callable[[str], None],
        *,
        window: int,
        max_bytes: int,
        chunk_bytes: int,
        stall_s: float,
    ) -> None:
        self.counters = Counters()
        self._write, self._accept, self._fail = write, accept, fail
        self._window, self._max_bytes = window, max_bytes
        self._chunk_bytes, self._stall_s = chunk_bytes, stall_s
        self._outgoing: deque[_Outgoing] = deque()
        self._current: _Outgoing | None = None
        self._credit = 0
        self._writer: asyncio.Task[None] | None = None
        self._incoming = Assembly(max_bytes)
        self._owed = window
        self._items: deque[Item] = deque()
        self._arrived = asyncio.Event()
        self._ended: NetworkError | None = None
        self._kick()

    @property
    def waiting(self) -> int:
        """How many frames wait for credit or for their turn."""
        return len(self._outgoing)

    @property
    def credit(self) -> int:
        """How many frames may be begun now."""
        return self._credit

    @property
    def unread(self) -> int:
        """How many frames have come and were not yet received."""
        return len(self._items)

    @property
    def stalled_for_s(self) -> float:
        """Seconds since the last piece of a frame that is only partly here."""
        return self._incoming.stalled_for_s

    async def send(self, frame: Frame) -> None:
        """Send a frame; returns when all of it is on its way. Raises NetworkError.

        Waits for credit. Cancelling takes back a frame that has not begun; one that has begun is
        still sent whole.
        """
        entry = self._post(frame)
        try:
            sent = await entry.sent
        except asyncio.CancelledError:
            if entry in self._outgoing:
                self._outgoing.remove(entry)
            raise
        if not sent:
            self._check_open()

    def post(self, frame: Frame) -> None:
        """Send a frame without waiting. Raises NetworkError."""
        self._post(frame)

    def _post(self, frame: Frame) -> _Outgoing:
        self._check_open()
        if len(frame) > self._max_bytes:
            raise NetworkError(
                f"frame: {len(frame)} bytes are more than the {self._max_bytes} a lane carries: "
                "send smaller batches"
            )
        entry = _Outgoing(memoryview(frame), asyncio.get_running_loop().create_future())
        self._outgoing.append(entry)
        self._kick()
        return entry

    async def receive(self) -> Item:
        """The next frame. Raises NetworkError when the lane has ended and no frame is left."""
        while not self._items:
            self._check_open()
            self._arrived.clear()
            await self._arrived.wait()
        item = self._items.popleft()
        self._give_way()
        return item

    def feed(self, message: bytes) -> None:
        """Take one message of the stream. Raises NetworkError if it is not allowed."""
        self.counters.received_overhead_bytes += len(message) + _PREFIX_BYTES
        came = self._incoming.feed(message)
        if isinstance(came, int):
            self._credit += came
            if self._credit > _MAX_CREDIT:
                raise NetworkError("stream: more credit came than is plausible")
            self._kick()
        elif came is not None:
            self.counters.frames_received += 1
            self.counters.received_bytes += len(came)
            self.counters.received_overhead_bytes -= len(came)
            item = self._accept(came)
            if item is None:
                self._give_way()
            else:
                self._items.append(item)
                self._arrived.set()

    def end(self, error: NetworkError) -> None:
        """End the lane: everything that waits on it gets the error."""
        if self._ended:
            return
        self._ended = error
        self._incoming = Assembly(0)
        for entry in (self._current, *self._outgoing):
            if entry is not None:
                entry.settle(sent=False)
        self._outgoing.clear()
        self._arrived.set()
        # These refer to the connection and to gRPC's call, and so to the socket: an object that
        # still holds the lane must not keep those open.
        self._write, self._accept, self._fail = _is_over, _takes_nothing, _takes_nothing

    async def finish(self, timeout_s: float) -> None:
        """Wait until nothing is being written: gRPC cannot end a stream amid a write."""
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=timeout_s)

    def abandon(self) -> None:
        """Stop writing, for a stream that will never take the rest."""
        if self._writer not in (None, asyncio.current_task()):
            self._writer.cancel()

    def _check_open(self) -> None:
        if self._ended:
            # A new error each time: a kept one would keep the stack frames alive that raised it.
            raise type(self._ended)(*self._ended.args)

    def _give_way(self) -> None:
        self._owed += 1
        self._kick()

    def _kick(self) -> None:
        """Start the task that writes, unless it runs already or there is nothing to write."""
        if self._writer is None and self._ended is None and self._has_work():
            self._writer = asyncio.get_running_loop().create_task(self._write_all())

    def _owes(self) -> bool:
        # One message grants half a window of credits, instead of one message for each credit.
        return self._owed > 0 and self._owed >= self._window // 2

    def _has_work(self) -> bool:
        return self._owes() or bool(self._outgoing and self._credit)

    async def _write_all(self) -> None:
        try:
            while self._has_work() and not self._ended:
                if self._owes():
                    await self._grant()
                else:
                    await self._write_frame()
        except TimeoutError:
            self._fail("it took nothing in for too long")
        # gRPC raises either at the end of a stream, even if nothing cancelled this task.
        except (Exception, asyncio.CancelledError):
            self._fail("the stream broke")
        finally:
            self._writer = None

    async def _write_frame(self) -> None:
        self._credit -= 1
        self._current = entry = self._outgoing.popleft()
        for message in split(entry.frame, self._chunk_bytes):
            if self._ended:
                return
            await self._put(message)
            if self._owes():
                await self._grant()
        self._current = None
        self.counters.frames_sent += 1
        self.counters.sent_bytes += len(entry.frame)
        self.counters.sent_overhead_bytes -= len(entry.frame)
        entry.settle(sent=True)

    async def _grant(self) -> None:
        credit, self._owed = self._owed, 0
        # Counted before it is written, since a frame may come before the write returns.
        self._incoming.allowed += credit
        await self._put(grant(credit))

    async def _put(self, message: bytes) -> None:
        async with asyncio.timeout(self._stall_s):
            await self._write(message)
        self.counters.sent_overhead_bytes += len(message) + _PREFIX_BYTES


async def _is_over(message: bytes) -> None:
    """The write function of a lane that has ended."""
    raise NetworkError("stream: the lane is over")


def _takes_nothing(_: object) -> None:
    """The accept and fail functions of a lane that has ended."""
