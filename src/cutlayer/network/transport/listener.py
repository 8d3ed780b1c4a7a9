"""The server's side: accepts connections of devices, identifies them, and keeps the live ones."""

import asyncio
import secrets
from collections import Counter
from functools import partial

import grpc

from cutlayer.errors import CutlayerError, NetworkError, RefusedError
from cutlayer.harmless import harmless
from cutlayer.network.transport.address import check_free, is_loopback
from cutlayer.network.transport.admission import Admit, check_hello, identify, name_of, still_good
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.credentials import server_credentials
from cutlayer.network.transport.identity import Identity
from cutlayer.network.transport.lane import Counters
from cutlayer.network.transport.limits import SERVICE, SESSION_KEY, Lane, Limits, server_options
from cutlayer.network.transport.messages import Welcome, encode
from cutlayer.network.transport.peers import Peer

# Seconds that the server waits at the end of a stream for a device that reads nothing.
_FINISH_S = 2.0

Context = grpc.aio.ServicerContext[bytes, bytes]


class Listener:
    """Accepts devices and holds their connections. Make one with `listen`.

    port: where it listens. connections: the live ones by device name; if a device connects again,
    the new connection replaces the old one. events: how often devices joined, came again
    (reconnect), left, had their connection closed by the server, were lost (drop), or were refused.
    """

    def __init__(self, admit: Admit, identity: Identity | None, limits: Limits) -> None:
        self.port = 0
        self.connections: dict[str, Connection] = {}
        self.events: Counter[str] = Counter()
        self._admit, self._identity, self._limits = admit, identity, limits
        self._passed = {lane: Counters() for lane in Lane}
        self._sessions: dict[str, tuple[Connection, Peer | None]] = {}
        self._opening: Counter[str] = Counter()
        self._fresh: dict[str, Connection] = {}
        self._joined = asyncio.Event()
        self._known: set[str] = set()
        self._server = grpc.aio.server(
            options=server_options(limits),
            maximum_concurrent_rpcs=(len(Lane) + 1) * limits.max_connections,
        )
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            lane.value: grpc.stream_stream_rpc_method_handler(partial(self._serve, lane))
            for lane in Lane
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        self._janitor: asyncio.Task[None] | None = None

    async def accept(self) -> Connection:
        """The connection of the next device that joins, or joins again, once all lanes are open."""
        while not self._fresh:
            self._joined.clear()
            await self._joined.wait()
        return self._fresh.pop(next(iter(self._fresh)))

    @property
    def traffic(self) -> dict[Lane, Counters]:
        """The counts over all connections, including those that are over."""
        total = {lane: Counters() for lane in Lane}
        for lane, counters in self._passed.items():
            total[lane].add(counters)
        for connection, _ in list(self._sessions.values()):
            for lane, counters in connection.counters.items():
                total[lane].add(counters)
        return total

    async def close(self, reason: str = "the server stops", final: bool = False) -> None:
        """End every connection, telling the devices why, and stop listening.

        final: they must not come back.
        """
        if self._janitor is not None:
            self._janitor.cancel()
        for connection, _ in list(self._sessions.values()):
            connection.end(reason, final, how="close")
        await self._server.stop(grace=1.0)

    async def start(self, address: str) -> None:
        """Begin to listen. Raises NetworkError if that address cannot be used."""
        check_free(address, "address")
        try:
            if self._identity is None:
                self.port = self._server.add_insecure_port(address)
            else:
                credentials = server_credentials(self._identity)
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise NetworkError(
                f"address: cannot listen on {address} (taken just now): name another"
            ) from None
        await self._server.start()
        self._janitor = asyncio.create_task(self._look_after())

    async def _serve(self, lane: Lane, _: object, context: Context) -> None:
        """Serve one stream of a device, from its first message to the status that ends it."""
        try:
            peer = identify(self._identity, context.auth_context())
            if lane is Lane.CONTROL:
                connection = await self._open(peer, context)
            else:
                connection = self._find(peer, context)
                connection.attach(lane, context.write)
                if connection.whole:
                    self._enlist(connection)
        except CutlayerError as error:
            self.events["refused"] += 1
            await _abort(context, str(error), isinstance(error, RefusedError))
            return
        await self._pump(lane, connection, context)

    async def _open(self, peer: Peer | None, context: Context) -> Connection:
        """A connection with its control lane, after hello and welcome."""
        limits = self._limits
        if len(self._sessions) + self._opening.total() >= limits.max_connections:
            raise NetworkError(
                f"server: it has its {limits.max_connections} connections: come again later"
            )
        who = f"device {peer.name}" if peer else harmless(context.peer())
        if peer is not None and self._opening[who] >= limits.sessions_per_device:
            raise NetworkError(
                f"server: {who} opens {self._opening[who]} connections at a time: come again later"
            )
        self._opening[who] += 1
        try:
            async with asyncio.timeout(self._limits.hello_s):
                connection = await self._greet(peer, context)
        except TimeoutError:
            raise NetworkError(
                f"hello: none came within {self._limits.hello_s:g} s: connect again"
            ) from None
        finally:
            self._opening[who] -= 1
            if not self._opening[who]:
                del self._opening[who]
        self._make_room(connection.name)
        session = secrets.token_hex(16)
        self._sessions[session] = (connection, peer)
        connection.at_end(partial(self._forget, session))
        # `tell` would wait for credit, which comes on the stream that only `_pump` reads, later.
        connection.lane(Lane.CONTROL).post(encode(Welcome(session)))
        return connection

    def _make_room(self, name: str) -> None:
        """End the oldest connections of a device that has as many as it may."""
        own = [one for one, _ in self._sessions.values() if one.name == name]
        for connection in own[: len(own) + 1 - self._limits.sessions_per_device]:
            connection.end("the device opened more connections than it may have", final=True)

    async def _greet(self, peer: Peer | None, context: Context) -> Connection:
        check = still_good(self._identity, peer)
        connection = Connection(self._limits, True, peer.name if peer else "", check)
        connection.attach(Lane.CONTROL, context.write)
        try:
            while not connection.lane(Lane.CONTROL).unread:
                message = await context.read()
                if not isinstance(message, bytes):
                    raise NetworkError("hello: the stream ended before it")
                connection.feed(Lane.CONTROL, message)
                if connection.over:
                    raise connection.error
            connection.hello = hello = check_hello(await connection.hear(), peer)
            connection.name = name_of(hello, peer)
            self._admit(connection.name, hello)
        except BaseException:
            connection.end("refused")
            await connection.lane(Lane.CONTROL).finish(_FINISH_S)
            raise
        return connection

    def _find(self, peer: Peer | None, context: Context) -> Connection:
        """The connection whose session a further stream names, if it is of the same device."""
        given = dict(context.invocation_metadata() or ()).get(SESSION_KEY)
        connection, owner = self._sessions.get(str(given), (None, None))
        if connection is None or owner != peer:
            raise NetworkError("session: there is none of that name: connect again")
        return connection

    def _enlist(self, connection: Connection) -> None:
        name = connection.name
        older = self.connections.get(name)
        self.connections[name] = self._fresh[name] = connection
        self._joined.set()
        if older is not None:
            older.end("the device connected again, and the new connection replaced it", final=True)
        self.events["reconnect" if name in self._known else "join"] += 1
        self._known.add(name)

    def _forget(self, session: str) -> None:
        connection, _ = self._sessions.pop(session)
        for lane, counters in connection.counters.items():
            self._passed[lane].add(counters)
        if self.connections.get(connection.name) is connection:
            del self.connections[connection.name]
            self._fresh.pop(connection.name, None)
            self.events[connection.how] += 1

    async def _pump(self, lane: Lane, connection: Connection, context: Context) -> None:
        """Feed a lane until the connection is over, then say why in the stream's status."""
        task = asyncio.current_task()
        assert task is not None
        connection.at_end(lambda: asyncio.current_task() is task or task.cancel())
        try:
            while not connection.over:
                message = await context.read()
                if not isinstance(message, bytes):
                    connection.end("the device closed a stream")
                else:
                    connection.feed(lane, message)
        except asyncio.CancelledError:
            if not connection.over:  # gRPC cancels a handler whose device is gone
                connection.end("the device was lost")
                raise
        finally:
            connection.end("the server failed")
        await connection.lane(lane).finish(_FINISH_S)
        await _abort(context, connection.reason, connection.final)

    async def _look_after(self) -> None:
        limits = self._limits
        while True:
            await asyncio.sleep(min(limits.hello_s, limits.stall_s, limits.idle_s) / 4)
            for connection, _ in list(self._sessions.values()):
                if not connection.whole and connection.age_s > limits.hello_s:
                    connection.end("its lanes were not opened in time")
                connection.look_after()


async def listen(
    address: str,
    admit: Admit,
    identity: Identity | None = None,
    limits: Limits | None = None,
    insecure: bool = False,
) -> Listener:
    """Listen for devices on HOST:PORT (port 0: any free one; see Listener.port).

    Without an identity, anybody who reaches the address can join under any name, so only loopback
    addresses are accepted, unless `insecure`. Raises NetworkError.
    """
    if identity is None and not insecure and not is_loopback(address):
        raise NetworkError(
            f"address: {address} can be reached by others, but there are no keys: make some with "
            "cutlayer keys, listen on 127.0.0.1, or say --insecure"
        )
    listener = Listener(admit, identity, limits or Limits())
    await listener.start(address)
    return listener


async def _abort(context: Context, reason: str, final: bool) -> None:
    code = grpc.StatusCode.FAILED_PRECONDITION if final else grpc.StatusCode.ABORTED
    try:
        await context.abort(code, reason[:500])
    except grpc.aio.AbortError as error:
        # gRPC keeps the error with the call and raises it again. Its traceback would keep the
        # connection, and so the call and its socket, until the garbage is collected.
        error.__traceback__ = None
    except (Exception, asyncio.CancelledError):
        pass  # a device that is gone, or reads nothing, cannot be told
