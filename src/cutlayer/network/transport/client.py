"""The device's side: connects to a server, and says plainly why it could not."""

import asyncio
from typing import Any

import grpc

from cutlayer.errors import NetworkError, RefusedError
from cutlayer.harmless import harmless
from cutlayer.network.transport.address import split_address
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.credentials import channel_credentials
from cutlayer.network.transport.identity import Identity
from cutlayer.network.transport.limits import SERVICE, SESSION_KEY, Lane, Limits, client_options
from cutlayer.network.transport.messages import Hello, Welcome

Call = grpc.aio.StreamStreamCall[bytes, bytes]
_FINAL = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED)
# Seconds for which a broken lane waits until another lane tells the reason.
_OTHER_LANES_S = 2.0


async def connect(
    address: str, hello: Hello, identity: Identity | None = None, limits: Limits | None = None
) -> Connection:
    """Connect to the server at HOST:PORT; returns when all lanes are open.

    hello: must name the device if there is no identity. Raises RefusedError if trying again is of
    no use, else NetworkError.
    """
    limits = limits or Limits()
    try:
        split_address(address, "address", any_port=False)
    except NetworkError as error:
        raise RefusedError(str(error)) from None
    name = identity.name if identity else hello.device
    client = _Client(address, identity, limits, Connection(limits, False, name or ""))
    try:
        async with asyncio.timeout(limits.hello_s):
            await client.open(hello)
    except TimeoutError:
        client.connection.end(f"{address} did not answer within {limits.hello_s:g} s")
        raise client.connection.error from None
    except BaseException:
        client.connection.end("the connection was not completed")
        raise
    return client.connection


class _Client:
    """The gRPC channel below a connection."""

    def __init__(
        self, address: str, identity: Identity | None, limits: Limits, connection: Connection
    ) -> None:
        self.connection = connection
        self._address, self._limits = address, limits
        options = client_options(limits)
        if identity is None:
            self._channel = grpc.aio.insecure_channel(address, options)
        else:
            credentials = channel_credentials(identity)
            self._channel = grpc.aio.secure_channel(address, credentials, options)
        self._tasks: set[asyncio.Task[None]] = set()
        connection.at_end(self._stop)

    async def open(self, hello: Hello) -> None:
        """Open the control lane, greet, and open the others."""
        self._attach(Lane.CONTROL, ())
        await self.connection.tell(hello)
        answer = await self.connection.hear()
        if not isinstance(answer, Welcome):
            self.connection.end("the server answered the hello with another message", final=True)
            raise self.connection.error
        for lane in Lane:
            if lane is not Lane.CONTROL:
                self._attach(lane, ((SESSION_KEY, answer.session),))
        self._run(self._heartbeat())

    def _attach(self, lane: Lane, metadata: tuple[tuple[str, str], ...]) -> None:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            f"/{SERVICE}/{lane}"
        )
        call: Call = method(metadata=metadata)

        async def write(message: bytes) -> None:
            try:
                await call.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self.connection.wait_closed()  # the reader learns why
                raise

        self.connection.attach(lane, write)
        self._run(self._pump(lane, call))

    def _run(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(self, lane: Lane, call: Call) -> None:
        try:
            while isinstance(message := await call.read(), bytes):
                self.connection.feed(lane, message)
        except grpc.aio.AioRpcError:
            pass  # its code and details are read below
        code, details = await call.code(), harmless(await call.details() or "")
        if code is grpc.StatusCode.INTERNAL:
            # gRPC reports a write at the end of a stream by its own text, not the server's. The
            # server's text comes on a lane where nothing is written, and ends this task.
            await asyncio.sleep(_OTHER_LANES_S)
        self.connection.end(_why(self._address, code, details), code in _FINAL)

    async def _heartbeat(self) -> None:
        """Ping now and then, so that each side knows that the other is alive."""
        while not self.connection.over:
            await asyncio.sleep(self._limits.heartbeat_s)
            try:
                async with asyncio.timeout(self._limits.idle_s):
                    await self.connection.ping()
            except TimeoutError:
                self.connection.end(f"the server answered nothing for {self._limits.idle_s:g} s")
            except NetworkError:
                return
            self.connection.look_after()

    def _stop(self) -> None:
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        for lane in self.connection.counters:
            # A write that waits for gRPC to open the stream never ends if it is closed first.
            self.connection.lane(lane).abandon()
        self._closing = asyncio.ensure_future(self._channel.close())


def _why(address: str, code: grpc.StatusCode, details: str) -> str:
    """What the end of a stream means, as a phrase for people."""
    if code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED):
        return details
    if code is grpc.StatusCode.INTERNAL:
        return (
            f"{address} ended the connection while this device was sending, and could not say why: "
            "its console does"
        )
    if "Connection refused" in details:
        return f"nobody listens at {address}: start the server, or name its address"
    if "handshake failed" in details or "Hostname Verification" in details:
        detail = details.rpartition(": ")[2]
        why = "" if detail == "OK" else f" ({detail})"
        return (
            f"the certificate of {address} is not valid here{why}: join by a name it was made for, "
            "with keys of the same fleet, and see that the clock of this machine is right"
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        detail = details.rpartition(": ")[2].rstrip("]")
        return (
            f"{address} went away ({detail}): if it never answers, see that both sides have keys "
            "of one fleet that are valid, or neither has"
        )
    return f"{address} ended it ({code.name.lower()}: {details})"
