"""Devices come back by themselves, and not all at once."""

import asyncio
import random
from contextlib import aclosing

import pytest

from cutlayer.errors import NetworkError, RefusedError
from cutlayer.network.transport.backoff import Backoff, reconnecting
from cutlayer.network.transport.client import connect
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.limits import Lane, Limits
from cutlayer.network.transport.listener import listen
from net_helpers import hello, play

QUICK = Backoff(first_s=0.01, longest_s=0.05)


def test_waits_double_up_to_a_limit_and_differ_between_devices() -> None:
    backoff = Backoff(first_s=1.0, longest_s=8.0)
    fleet = []
    for seed in range(200):
        waits = backoff.waits(random.Random(seed))
        fleet.append([next(waits) for _ in range(6)])
    for place, longest in enumerate([1, 2, 4, 8, 8, 8]):
        column = [waits[place] for waits in fleet]
        assert longest / 2 <= min(column) < 0.55 * longest
        assert 0.95 * longest < max(column) <= longest


def test_devices_come_back_after_the_server_was_away() -> None:
    async def scene() -> None:
        reasons: dict[str, list[str]] = {"cam-1": [], "cam-2": []}
        came: asyncio.Queue[Connection] = asyncio.Queue()

        async def device(name: str, port: int) -> None:
            async with aclosing(
                reconnecting(
                    lambda: connect(f"127.0.0.1:{port}", hello(name)),
                    QUICK,
                    lambda error, wait: reasons[name].append(str(error)),
                )
            ) as connections:
                async for connection in connections:
                    try:
                        while True:
                            await connection.send(Lane.UP, await connection.receive(Lane.DOWN))
                    except NetworkError:
                        continue

        async def meet(listener_port: int) -> int:
            listener = await listen(f"127.0.0.1:{listener_port}", lambda name, said: None)
            async with asyncio.timeout(30):
                for _ in range(2):
                    came.put_nowait(await listener.accept())
                assert set(listener.connections) == {"cam-1", "cam-2"}
                for connection in listener.connections.values():
                    await connection.send(Lane.DOWN, connection.name.encode())
                    assert await connection.receive(Lane.UP) == connection.name.encode()
            await listener.close("the server is updated")
            return listener.port

        # A port that is free now, and then again while nobody listens.
        probe = await listen("127.0.0.1:0", lambda name, said: None)
        port = probe.port
        await probe.close()
        devices = [asyncio.create_task(device(name, port)) for name in reasons]
        await meet(port)
        await asyncio.sleep(0.1)
        await meet(port)
        for task in devices:
            task.cancel()
        for said in reasons.values():
            assert any("nobody listens" in reason for reason in said)
            assert any("the server is updated" in reason for reason in said)

    play(scene())


def test_a_device_that_is_refused_does_not_come_again() -> None:
    def admit(name: str, said: object) -> None:
        raise RefusedError("job: this one is over")

    async def scene() -> None:
        listener = await listen("127.0.0.1:0", admit)
        tries = 0

        async def join() -> Connection:
            nonlocal tries
            tries += 1
            return await connect(f"127.0.0.1:{listener.port}", hello("cam-1"))

        with pytest.raises(RefusedError, match="this one is over"):
            async for _ in reconnecting(join, QUICK):
                pass
        assert tries == 1
        await listener.close()

    play(scene())


def test_an_address_that_answers_nothing_is_given_up_in_time() -> None:
    async def scene() -> None:
        silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        with pytest.raises(NetworkError, match=r"did not answer within 0\.2 s"):
            await connect(f"127.0.0.1:{port}", hello("cam-1"), limits=Limits(hello_s=0.2))
        silent.close()

    play(scene())
