"""Connections over loopback: frames, lanes, credits, who may join, and how it ends."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from cutlayer.errors import NetworkError, RefusedError
from cutlayer.network.transport import messages
from cutlayer.network.transport.chunks import grant, split
from cutlayer.network.transport.client import connect
from cutlayer.network.transport.limits import Lane, Limits
from cutlayer.network.transport.link_rates import measure_link
from cutlayer.network.transport.listener import listen
from cutlayer.network.transport.messages import Hello, Pong, RoundBegin, StepDone
from net_helpers import ended, eventually, hello, play, raw_channel, raw_lane, settled, site

SIZES = (0, 1, 4096, 2**17 - 9, 2**17 - 8, 2**17, 2**17 + 1, 10**6, 5 * 2**20)


def test_frames_of_many_sizes_survive_both_ways_and_every_byte_is_counted() -> None:
    async def scene() -> None:
        async with site() as place:
            device, server = await place.join("cam-1")
            frames = [os.urandom(size) for size in SIZES]

            async def echo() -> None:
                for _ in frames:
                    await server.send(Lane.DOWN, await server.receive(Lane.UP))

            async def up() -> None:
                for frame in frames:
                    await device.send(Lane.UP, frame)

            async def down() -> list[bytes]:
                return [await device.receive(Lane.DOWN) for _ in frames]

            _, _, back = await settled(echo(), up(), down())
            assert back == frames
            for mine, theirs, lane in (
                (device, server, Lane.UP),
                (server, device, Lane.DOWN),
            ):
                sent, got = mine.counters[lane], theirs.counters[lane]
                assert sent.sent_bytes == got.received_bytes == sum(SIZES)
                assert sent.frames_sent == got.frames_received == len(SIZES)
                await eventually(
                    lambda s=sent, g=got: s.sent_overhead_bytes == g.received_overhead_bytes > 0
                )
                assert sent.sent_overhead_bytes < 0.001 * sum(SIZES)
            assert place.listener.traffic[Lane.UP] == server.counters[Lane.UP]
            await device.close("done")
            await server.wait_closed()
            assert place.listener.traffic[Lane.UP].received_bytes == sum(SIZES)

    play(scene())


def test_a_stalled_lane_holds_back_no_other() -> None:
    async def scene() -> None:
        async with site() as place:
            device, server = await place.join("cam-1")
            # Nobody receives UP: its credits run out with megabytes under way.
            stalled = [
                asyncio.create_task(device.send(Lane.UP, bytes(4 * 2**20))) for _ in range(4)
            ]
            await eventually(lambda: server.lane(Lane.UP).unread == 2)
            for number in range(20):
                await server.send(Lane.DOWN, bytes([number]) * 300_000)
                assert await device.receive(Lane.DOWN) == bytes([number]) * 300_000
                await server.tell(RoundBegin(number, cut=2, steps=1))
                assert await device.hear() == RoundBegin(number, cut=2, steps=1)
            assert sum(task.done() for task in stalled) == 2
            for _ in stalled:
                assert len(await server.receive(Lane.UP)) == 4 * 2**20
            await settled(*stalled)

    play(scene())


def test_credits_bound_the_frames_that_a_slow_receiver_holds() -> None:
    async def scene() -> None:
        async with site(Limits(frames_in_flight=3)) as place:
            device, server = await place.join("cam-1")
            sending = asyncio.gather(*(device.send(Lane.UP, bytes(1000)) for _ in range(30)))
            for _ in range(30):
                await server.receive(Lane.UP)
                await asyncio.sleep(0.002)
                assert server.lane(Lane.UP).unread <= 3
            await sending

    play(scene())


def test_many_devices_exchange_at_once_and_none_gets_anothers_frames() -> None:
    async def scene() -> None:
        async with site() as place:
            pairs = [await place.join(f"cam-{i}") for i in range(12)]

            async def serve(i: int) -> None:
                for _ in range(10):
                    frame = await pairs[i][1].receive(Lane.UP)
                    await pairs[i][1].send(Lane.DOWN, frame[::-1])

            async def train(i: int) -> bool:
                for step in range(10):
                    frame = f"{i} {step} ".encode() * 5000
                    await pairs[i][0].send(Lane.UP, frame)
                    if await pairs[i][0].receive(Lane.DOWN) != frame[::-1]:
                        return False
                return True

            work = [serve(i) for i in range(12)] + [train(i) for i in range(12)]
            assert (await settled(*work))[12:] == [True] * 12
            assert [pair[1].name for pair in pairs] == [f"cam-{i}" for i in range(12)]

    play(scene())


def test_a_device_that_comes_again_takes_its_old_connections_place() -> None:
    async def scene() -> None:
        async with site() as place:
            device, server = await place.join("cam-1")
            waiting = asyncio.create_task(server.receive(Lane.UP))
            again, server_again = await place.join("cam-1")
            with pytest.raises(NetworkError, match="replaced it"):
                await waiting
            with pytest.raises(RefusedError, match="replaced it"):
                await device.receive(Lane.DOWN)
            assert place.listener.connections == {"cam-1": server_again}
            await again.send(Lane.UP, b"new")
            assert await server_again.receive(Lane.UP) == b"new"
            assert place.listener.events["reconnect"] == 1

    play(scene())


def test_either_side_learns_why_the_other_ended_it() -> None:
    async def scene() -> None:
        async with site() as place:
            device, server = await place.join("cam-1")
            await device.close("the battery is low")
            assert "the battery is low" in await server.wait_closed()
            assert server.how == "leave"
            device, server = await place.join("cam-1")
            await server.close("the round is full")
            assert "the round is full" in await device.wait_closed()
            assert not device.final
            with pytest.raises(NetworkError, match="cam-1: the round is full"):
                await device.send(Lane.UP, b"x")

    play(scene())


def test_frames_that_came_before_the_end_can_still_be_received() -> None:
    async def scene() -> None:
        async with site() as place:
            device, server = await place.join("cam-1")
            await device.send(Lane.UP, b"last words")
            await eventually(lambda: server.lane(Lane.UP).unread == 1)
            await device.close("done")
            await server.wait_closed()
            assert await server.receive(Lane.UP) == b"last words"
            with pytest.raises(NetworkError, match="left"):
                await server.receive(Lane.UP)

    play(scene())


def test_a_device_is_refused_with_the_servers_own_sentence() -> None:
    def admit(name: str, said: Hello) -> None:
        if said.job != "abc":
            raise RefusedError(f"job: {name} has another job: give it the server's file")

    async def scene() -> None:
        async with site(admit=admit) as place:
            with pytest.raises(RefusedError, match="cam-1 has another job"):
                await place.join_with(None, hello("cam-1", job="def"))  # type: ignore[arg-type]
            with pytest.raises(RefusedError, match="protocol 99"):
                await place.join_with(None, hello("cam-1", protocol=99))  # type: ignore[arg-type]
            with pytest.raises(RefusedError, match="has no device name"):
                await place.join_with(None, hello())  # type: ignore[arg-type]
            await place.join("cam-1")
            assert place.listener.events["refused"] == 3

    play(scene())


def test_a_server_has_room_for_so_many_devices_and_says_so() -> None:
    async def scene() -> None:
        async with site(Limits(max_connections=2)) as place:
            await place.join("cam-1")
            device, _ = await place.join("cam-2")
            with pytest.raises(NetworkError, match="has its 2 connections") as refused:
                await place.join("cam-3")
            assert not isinstance(refused.value, RefusedError)  # it may try again
            await device.close("done")
            await eventually(lambda: len(place.listener.connections) == 1)
            await place.join("cam-3")

    play(scene())


def test_each_side_can_measure_the_link_and_an_answer_of_another_size_ends_it() -> None:
    async def scene() -> None:
        async with site() as place:
            device, server = await place.join("cam-1")
            for side in (device, server):
                rates = await measure_link(side)
                assert rates.round_trip_s > 0
                assert min(rates.sent_bps, rates.received_bps) > 1e6
            device.feed = lambda lane, message: None  # type: ignore[method-assign]
            asked = asyncio.ensure_future(server.ping(answer_bytes=2**20))
            await asyncio.sleep(0)
            (number,) = server._pings
            await device.tell(Pong(number, b"short"))
            with pytest.raises(NetworkError, match="ping of 1048576 bytes was answered with 5"):
                await asked

    play(scene())


def test_a_device_that_opens_sessions_without_end_keeps_only_its_newest() -> None:
    async def scene() -> None:
        async with site(Limits(sessions_per_device=3)) as place, AsyncExitStack() as channels:
            first = []
            for _ in range(6):
                channel = await channels.enter_async_context(raw_channel(place))
                lane = raw_lane(channel, Lane.CONTROL)
                first.append(lane)
                await lane.write(grant(8))
                for piece in split(memoryview(messages.encode(hello("cam-1"))), 2**17):
                    await lane.write(piece)
                await lane.read()
            await eventually(lambda: len(place.listener._sessions) == 3)
            assert "more connections than it may have" in await ended(first[0])
            await place.join("cam-2")

    play(scene())


def test_a_server_that_hangs_is_given_up() -> None:
    async def scene() -> None:
        async with site(Limits(idle_s=0.4, heartbeat_s=0.05)) as place:
            device, server = await place.join("cam-1")
            server.feed = lambda lane, message: None  # type: ignore[method-assign]
            server.look_after = lambda: None  # type: ignore[method-assign]
            assert "answered nothing for 0.4 s" in await device.wait_closed()
            assert not device.final

    play(scene())


def test_silence_ends_a_connection_and_heartbeats_keep_one() -> None:
    async def scene() -> None:
        limits = Limits(hello_s=2.0, idle_s=0.4, heartbeat_s=0.05)
        async with site(limits) as place:
            alive, _ = await place.join("alive")
            dead = await connect(place.address, hello("dead"), limits=Limits(heartbeat_s=1000))
            server = await place.accept()
            assert "nothing came for 0.4 s" in await server.wait_closed()
            await asyncio.sleep(0.5)
            assert dead.over
            assert not alive.over
            assert place.listener.events["drop"] == 1

    play(scene())


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "edge.example:0"])
def test_without_keys_only_this_machine_is_listened_to(address: str) -> None:
    async def scene() -> None:
        with pytest.raises(NetworkError, match="there are no keys"):
            await listen(address, lambda name, said: None)

    play(scene())


def test_insecure_has_to_be_said() -> None:
    async def scene() -> None:
        listener = await listen("0.0.0.0:0", lambda name, said: None, insecure=True)
        assert listener.port > 0
        await listener.close()

    play(scene())


def test_a_port_in_use_is_one_sentence() -> None:
    async def scene() -> None:
        async with site() as place:
            with pytest.raises(NetworkError, match=f"cannot listen on {place.address}"):
                await listen(place.address, lambda name, said: None)

    play(scene())


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("edge.local", "no HOST:PORT"),
        ("127.0.0.1:99999", "no port 99999"),
        ("127.0.0.1:x", "no HOST:PORT"),
        ("::1:7311", "no HOST:PORT"),
        (":7311", "no HOST:PORT"),
    ],
)
def test_an_address_that_is_none_is_one_sentence_on_both_sides(address: str, why: str) -> None:
    async def scene() -> None:
        with pytest.raises(NetworkError, match=f"^address: .*{why}"):
            await listen(address, lambda name, said: None)
        with pytest.raises(RefusedError, match=f"address: .*{why}"):
            await connect(address, Hello(version="1", device="cam-1"))

    play(scene())


def test_ipv6_works_in_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")

    async def scene() -> None:
        listener = await listen("[::1]:0", lambda name, said: None)
        await connect(f"[::1]:{listener.port}", Hello(version="1", device="cam-1"))
        await listener.close()

    play(scene())


def test_a_device_that_is_sending_when_it_is_let_go_still_learns_why() -> None:
    """gRPC has a word of its own for a write that meets the end of its stream."""

    async def scene() -> None:
        async with site() as place:
            for number in range(40):
                device, server = await place.join(f"cam-{number}")

                async def without_end(work: Callable[[], Awaitable[object]]) -> None:
                    with contextlib.suppress(NetworkError):
                        while True:
                            await work()

                flood = [
                    asyncio.ensure_future(without_end(one))
                    for one in (lambda: device.tell(StepDone(0, 0, 1.0)), server.hear)  # noqa: B023
                ]
                await asyncio.sleep(0.001 * number)
                server.end("the round is full")
                assert await device.wait_closed() == "the round is full"
                await asyncio.gather(*flood)

    play(scene())


def test_a_reason_that_is_no_text_is_told_all_the_same() -> None:
    """It may name a file, whose name may be any bytes."""
    odd, shown = "\udcff.png\r\n", r"\udcff.png\r\n"

    async def scene() -> None:
        async with site() as place:
            device, server = await place.join("cam-1")
            server.end(f"it has {odd}")
            assert await device.wait_closed() == f"it has {shown}"
            device, server = await place.join("cam-2")
            await device.close(f"it has {odd}")
            assert shown in await server.wait_closed()

    play(scene())
