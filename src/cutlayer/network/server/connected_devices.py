"""Tracks connected devices, and drops any that time out or send something that is not allowed.

The network runs in its own thread and event loop; training, in the main thread, asks devices
through `ConnectedDevices.each`. A device that fails is disconnected: it connects again by itself
and takes part from the next round, with nothing left over from the last.
"""

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from cutlayer.errors import CutlayerError, NetworkError, RefusedError
from cutlayer.harmless import harmless
from cutlayer.network.server.connected_device import ConnectedDevice
from cutlayer.network.server.handout import Handout, JobOffer
from cutlayer.network.server.presence import Presence
from cutlayer.network.server.reception import Reception, check_hello
from cutlayer.network.server.roster import Roster
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.event_log import EventLog
from cutlayer.network.transport.identity import Identity
from cutlayer.network.transport.limits import Limits
from cutlayer.network.transport.listener import Listener, listen
from cutlayer.network.transport.messages import Done, Hello

Answer = TypeVar("Answer")

_FAREWELL_S = 5.0


class ConnectedDevices:
    """Lets devices in, tells them what to do, and lets go of those that fail.

    Start it with `open`; `close` ends it. presence: who is ready, and who left. handout: what
    devices are sent when they join.
    """

    def __init__(self, offer: JobOffer, roster: Roster, log: EventLog) -> None:
        self.listener: Listener
        self.presence = Presence()
        self.handout = Handout(offer, self.presence.stir)
        self._reception = Reception(offer, roster, self.presence, self.handout, log)
        self._offer, self._roster, self._log = offer, roster, log
        self._attended: set[ConnectedDevice] = set()
        self._identity: Identity | None = None
        self._done = False
        self._told_done: set[str] = set()
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

    def names(self) -> dict[int, str]:
        """The names of the devices that have a number in this run, by number."""
        return {number: name for name, number in self._roster.numbers.items()}

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
        turned_away = self.presence.turned_away()
        return {n for n in waited_for if self._roster.numbers[n] not in turned_away}

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
        check_hello(self._offer, name, hello)
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
        version = harmless(device.hello.version)
        self._log.write("join", device=name, number=device.number, version=version)
        self._attended.add(device)
        try:
            if self._done:
                await self._dismiss(device)
            await connection.tell(await self.handout.task_of(device))
            while True:
                await self._reception.hear(device, await connection.hear())
        except CutlayerError as error:
            if device.ready is None and (connection.at_fault or not connection.over):
                self.presence.turn_away(device, str(error))
            self._drop(device, str(error), final=isinstance(error, RefusedError))
        finally:
            self._attended.discard(device)
            self._part_from(device)

    def _part_from(self, device: ConnectedDevice) -> None:
        """Note that a device is gone; if it was never ready, the number it held is free again."""
        connection, number = device.connection, device.number
        # Asked only of one that may not come back, since it reads every certificate ever signed.
        revoked = connection.final and connection.name in self._revoked()
        self.presence.leave(device, self._done, revoked)
        if self.listener.connections.get(connection.name) in (None, connection):
            self._roster.let_go(connection.name)
        self._log.write("leave", device=connection.name, number=number, reason=connection.reason)

    def _drop(self, device: ConnectedDevice, reason: str, final: bool = False) -> None:
        if not device.connection.over:
            self._log.write("drop", device=device.connection.name, reason=reason)
            device.connection.end(reason, final)
