"""A listener on loopback and devices that connect to it, for the tests of the network."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

pytest.importorskip("grpc")

import grpc

from cutlayer.network.transport import keys
from cutlayer.network.transport.client import connect
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.identity import Identity, load_device_identity, load_server_identity
from cutlayer.network.transport.limits import SERVICE, Lane, Limits, client_options
from cutlayer.network.transport.listener import Listener, listen
from cutlayer.network.transport.messages import Hello

Result = TypeVar("Result")


def hello(device: str | None = None, **fields: Any) -> Hello:
    return Hello(**{"version": "1", "job": "abc", "samples": 10, "device": device, **fields})


@dataclass
class Site:
    """A server that listens."""

    listener: Listener
    limits: Limits

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listener.port}"

    async def join(self, device: str) -> tuple[Connection, Connection]:
        """The device's end and the server's, without certificates."""
        mine = await connect(self.address, hello(device), limits=self.limits)
        return mine, await self.accept()

    async def join_with(
        self, identity: Identity, said: Hello | None = None
    ) -> tuple[Connection, Connection]:
        """The device's end and the server's, with certificates."""
        mine = await connect(self.address, said or hello(), identity, self.limits)
        return mine, await self.accept()

    async def accept(self) -> Connection:
        async with asyncio.timeout(30):
            return await self.listener.accept()


@asynccontextmanager
async def site(
    limits: Limits | None = None,
    identity: Identity | None = None,
    admit: Callable[[str, Hello], None] = lambda name, said: None,
) -> AsyncIterator[Site]:
    limits = limits or Limits()
    listener = await listen("127.0.0.1:0", admit, identity, limits)
    try:
        yield Site(listener, limits)
    finally:
        await listener.close()


@asynccontextmanager
async def raw_channel(place: Site) -> AsyncIterator[grpc.aio.Channel]:
    """A gRPC channel to the server without anything of cutlayer's client."""
    async with grpc.aio.insecure_channel(place.address, client_options(place.limits)) as channel:
        yield channel


def raw_lane(channel: grpc.aio.Channel, lane: Lane, **metadata: str) -> Any:
    return channel.stream_stream(f"/{SERVICE}/{lane}")(
        metadata=tuple((key.replace("_", "-"), value) for key, value in metadata.items())
    )


async def ended(call: Any) -> str:
    """Why the server ended a raw stream."""
    async with asyncio.timeout(30):
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
        return str(await call.details())


def play(scene: Coroutine[Any, Any, Result]) -> Result:
    """Run a scene to its end; one that hangs fails, after a time that no machine needs."""

    async def limited() -> Result:
        async with asyncio.timeout(180):
            return await scene

    return asyncio.run(limited())


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds; fails after a time that no machine needs."""
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


async def settled(*work: Awaitable[Any]) -> list[Any]:
    """Results or exceptions of several coroutines, with a limit that no machine needs."""
    async with asyncio.timeout(60):
        return list(await asyncio.gather(*work, return_exceptions=True))


class Fleet:
    """A folder of keys with a server's and some devices' certificates."""

    def __init__(self, folder: Path, *devices: str) -> None:
        self.folder = folder
        keys.init(folder)
        keys.add_server(folder, ["127.0.0.1", "localhost"])
        for device in devices:
            keys.add_device(folder, device)

    @property
    def server(self) -> Identity:
        return load_server_identity(self.folder)

    def device(self, name: str) -> Identity:
        return load_device_identity(self.folder / "devices" / name)
