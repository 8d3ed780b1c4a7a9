"""What a connection held is given back when it is over, not when garbage is collected."""

import asyncio
import gc
import os
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cutlayer.errors import NetworkError
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.lane import LaneStream
from cutlayer.network.transport.limits import Lane, Limits
from net_helpers import Site, ended, play, raw_channel, raw_lane, settled, site

CONNECTIONS = 12

End = Callable[[Connection, Connection], Awaitable[object]]


@pytest.fixture(autouse=True)
def _uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def leave(mine: Connection, theirs: Connection) -> None:
    await mine.close("the device stops")


async def drop(mine: Connection, theirs: Connection) -> None:
    theirs.end("what came was wrong")


async def refuse(mine: Connection, theirs: Connection) -> None:
    theirs.end("revoked", final=True)


async def lie(mine: Connection, theirs: Connection) -> None:
    theirs.feed(Lane.UP, b"\xff no chunk")


async def lose(mine: Connection, theirs: Connection) -> None:
    mine.end("the device died")


async def amid_everything(mine: Connection, theirs: Connection) -> None:
    """Frames wait for credit, a ping for its answer and readers for frames as it ends."""
    waiting = [mine.send(Lane.UP, bytes(100_000)) for _ in range(20)]
    waiting += [theirs.send(Lane.DOWN, bytes(100_000)) for _ in range(20)]
    tasks = [asyncio.ensure_future(work) for work in waiting]
    tasks += [asyncio.ensure_future(theirs.ping(1000, 1000)) for _ in range(3)]  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    theirs.end("amid everything")
    for found in await settled(*tasks):
        assert found is None or isinstance(found, float | NetworkError)


async def one(place: Site, name: str, end: End, held: "weakref.WeakSet[object]") -> None:
    mine, theirs = await place.join(name)
    await mine.send(Lane.UP, b"frame")
    assert await theirs.receive(Lane.UP) == b"frame"
    held.update({mine, theirs, *(side.lane(lane) for side in (mine, theirs) for lane in Lane)})
    readers = [asyncio.ensure_future(side.receive(Lane.UP)) for side in (mine, theirs)]
    hearers = [asyncio.ensure_future(side.hear()) for side in (mine, theirs)]
    await asyncio.sleep(0)
    await end(mine, theirs)
    await settled(mine.wait_closed(), theirs.wait_closed(), *readers, *hearers)


async def soon(holds: Callable[[], bool]) -> bool:
    for _ in range(1000):
        if holds():
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
@pytest.mark.parametrize("end", [leave, drop, refuse, lie, lose, amid_everything])
def test_a_connection_that_is_over_holds_no_memory_and_no_socket(end: End) -> None:
    async def scene() -> None:
        async with site(Limits(heartbeat_s=0.5)) as place:
            held: weakref.WeakSet[Connection | LaneStream[object]] = weakref.WeakSet()
            await one(place, "cam-0", leave, weakref.WeakSet())  # what is loaded once is loaded
            before = descriptors()
            for number in range(CONNECTIONS):
                await one(place, f"cam-{number % 3}", end, held)
            assert await soon(lambda: not held), f"{len(held)} are left"
            assert await soon(lambda: descriptors() <= before), f"{descriptors()} > {before}"

    play(scene())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_who_was_never_let_in_holds_no_socket() -> None:
    async def scene() -> None:
        async with site() as place:
            before = 0
            for number in range(CONNECTIONS):
                async with raw_channel(place) as channel:
                    call = raw_lane(channel, Lane.CONTROL)
                    await call.write(b"no hello")
                    assert await ended(call)
                    del call
                if number == 0:
                    before = descriptors()
            assert await soon(lambda: descriptors() <= before), f"{descriptors()} > {before}"
            assert not place.listener.connections

    play(scene())
