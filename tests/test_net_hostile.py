"""A live server under input that no honest device sends; another device notices nothing."""

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from subprocess import DEVNULL, PIPE
from typing import Any

import grpc
import pytest
import torch

from cutlayer.errors import FrameError
from cutlayer.network.transport import messages
from cutlayer.network.transport.chunks import Assembly, grant, split
from cutlayer.network.transport.limits import Lane, Limits
from cutlayer.network.transport.messages import Bye, Ping, Probe, StepDone
from cutlayer.settings.method import Quantizer
from cutlayer.wire.codec import decode_activations, encode_activations
from cutlayer.wire.messages import ActivationsMessage
from net_helpers import Site, ended, eventually, hello, play, raw_channel, raw_lane, site
from net_http2 import PREFACE, data, post

LIMITS = Limits(max_frame_bytes=10**6, chunk_bytes=4096, hello_s=10.0, idle_s=30.0)


def memory_bytes() -> int:
    """What this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def witness(place: Site) -> AsyncIterator[list[int]]:
    """A device that exchanges frames all the while; counts them, and must not be disturbed."""
    device, server = await place.join("witness")
    done = [0]

    async def exchange() -> None:
        while True:
            frame = os.urandom(5000)
            await device.send(Lane.UP, frame)
            assert await server.receive(Lane.UP) == frame
            await server.send(Lane.DOWN, frame)
            assert await device.receive(Lane.DOWN) == frame
            done[0] += 1
            await asyncio.sleep(0.005)

    work = asyncio.create_task(exchange())
    await eventually(lambda: done[0] > 0)
    try:
        yield done
        before = done[0]
        await eventually(lambda: done[0] > before or work.done())
        assert not work.done(), work
        assert not device.over
    finally:
        work.cancel()


def mutate(rng: random.Random, message: bytes) -> bytes:
    """A message with bits flipped, pieces cut out, put in or doubled."""
    changed = bytearray(message)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(changed) + 1)
        kind = rng.randrange(4)
        if kind == 0 and changed:
            changed[place % len(changed)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[place : place + rng.randint(1, 20)]
        elif kind == 2:
            changed[place:place] = rng.randbytes(rng.randint(1, 20))
        else:
            changed[place:place] = changed[place : place + rng.randint(1, 20)]
    return bytes(changed)


async def attack_hello(place: Site, rng: random.Random, count: int) -> None:
    """Streams that each begin with a mutated hello."""
    honest = messages.encode(hello("mallory", processor="x"))
    (whole,) = split(memoryview(honest), 4096)
    async with raw_channel(place) as channel:
        for _ in range(count):
            call = raw_lane(channel, Lane.CONTROL)
            await call.write(mutate(rng, whole))
            await call.done_writing()
            await ended(call)


async def raw_session(channel: grpc.aio.Channel, device: str) -> dict[Lane, Any]:
    """All lanes of a device that said hello properly."""
    control = raw_lane(channel, Lane.CONTROL)
    await control.write(next(iter(split(memoryview(messages.encode(hello(device))), 4096))))
    await control.write(grant(32))
    assembly = Assembly(10**6)
    assembly.allowed = 1
    welcome = None
    while not isinstance(welcome, bytes):
        welcome = assembly.feed(await control.read())
    session = messages.decode(welcome).session  # type: ignore[union-attr]
    up, down = (raw_lane(channel, lane, cutlayer_session=session) for lane in (Lane.UP, Lane.DOWN))
    return {Lane.CONTROL: control, Lane.UP: up, Lane.DOWN: down}


async def attack_session(place: Site, rng: random.Random, count: int) -> None:
    """Sessions that go well until a mutated message comes on some lane."""
    talk = [messages.encode(m) for m in (Probe(0, 1), StepDone(0, 1), Bye("x"))]
    talk += [messages.encode(Ping(1, b"y" * 50, 50))]
    honest = [m for text in talk for m in split(memoryview(text), 4096)]
    honest += [grant(1), *split(memoryview(bytes(9000)), 4096)]
    while count > 0:
        # A channel each: gRPC lets one that resets streams over and over open fewer and fewer.
        async with raw_channel(place) as channel:
            lanes = await raw_session(channel, f"mallory-{rng.randrange(5)}")
            # The server ends the session sooner or later.
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                for _ in range(20):
                    count -= 1
                    await rng.choice(list(lanes.values())).write(mutate(rng, rng.choice(honest)))


async def attack_codec(place: Site, rng: random.Random, count: int) -> None:
    """Mutated frames of activations in whole messages, decoded as a server does that trains."""
    device, server = await place.join(f"mallory-{count}-frames")
    hidden = torch.randn(2, 6, 16)
    labels = torch.zeros(2, dtype=torch.int64)
    sent = ActivationsMessage(0, 0, 0, hidden=hidden, mask=None, labels=labels, num_classes=10)
    honest = [encode_activations(sent, Quantizer(bits=bits)) for bits in (4, 8, 32)]
    refused = 0
    for _ in range(count):
        await device.send(Lane.UP, mutate(rng, rng.choice(honest)))
        try:
            decode_activations(await server.receive(Lane.UP))
        except FrameError:
            refused += 1
    assert refused > 0.9 * count
    await device.close("done", final=True)


async def attack(count: int) -> None:
    async with site(LIMITS) as place, witness(place) as exchanges:
        share = count // 5
        # What the machinery itself takes is there after the first round.
        await attack_codec(place, random.Random(0), 50)

        async def drain() -> None:
            while True:
                await place.listener.accept()

        draining = asyncio.create_task(drain())
        await attack_hello(place, random.Random(0), 50)
        await attack_session(place, random.Random(0), 50)
        held = memory_bytes()
        seen = exchanges[0]
        await asyncio.gather(
            *(attack_hello(place, random.Random(seed), share) for seed in (1, 2)),
            *(attack_session(place, random.Random(seed), share) for seed in (3, 4)),
        )
        draining.cancel()
        await attack_codec(place, random.Random(5), share)
        assert memory_bytes() - held < 50 * 2**20
        assert exchanges[0] > seen
        await eventually(lambda: list(place.listener.connections) == ["witness"])
        assert place.listener.events["refused"] > 0


def test_mutated_messages_harm_neither_the_server_nor_another_device() -> None:
    play(attack(2000))


@pytest.mark.slow
def test_a_hundred_thousand_mutated_messages_harm_neither_server_nor_device() -> None:
    asyncio.run(attack(100_000))


def test_a_frame_that_declares_a_tebibyte_is_refused_unallocated() -> None:
    async def scene() -> None:
        async with site(LIMITS) as place, witness(place), raw_channel(place) as channel:
            held = memory_bytes()
            tebibyte = b"\x00" + (2**40).to_bytes(8, "little") + b"x" * 4000
            greeting = raw_lane(channel, Lane.CONTROL)
            await greeting.write(tebibyte)
            assert "1099511627776 bytes was declared" in await ended(greeting)
            for lane in Lane:
                call = (await raw_session(channel, "mallory"))[lane]
                await call.write(tebibyte)
                assert "1099511627776 bytes was declared" in await ended(call)
            assert memory_bytes() - held < 20 * 2**20

    play(scene())


def test_a_grpc_message_that_declares_four_gigabytes_is_refused_unallocated() -> None:
    """Below cutlayer's own framing: HTTP/2 by hand, with a length prefix of 2^32 - 1."""

    def send(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            plain.sendall(PREFACE + post(b"/cutlayer.Link/control"))
            plain.sendall(data(b"\x00" + b"\xff" * 4 + b"x" * 16000))
            try:
                for _ in range(5000):  # 80 MB, as far as anyone takes them
                    plain.sendall(data(b"x" * 16000))
            except OSError:
                return

    async def scene() -> None:
        async with site(LIMITS) as place, witness(place):
            held = memory_bytes()
            await asyncio.to_thread(send, place.listener.port)
            assert memory_bytes() - held < 20 * 2**20

    play(scene())


def test_a_frame_that_never_ends_is_given_up_and_a_stream_without_hello_too() -> None:
    async def scene() -> None:
        limits = Limits(hello_s=0.3, stall_s=0.3)
        async with site(limits) as place, raw_channel(place) as channel:
            mute = raw_lane(channel, Lane.CONTROL)
            await mute.write(grant(1))
            assert "none came within 0.3 s" in await ended(mute)
            lost = raw_lane(channel, Lane.UP, cutlayer_session="00")
            assert "there is none of that name" in await ended(lost)
            half = raw_lane(channel, Lane.CONTROL)
            greeting = messages.encode(hello("cam-1"))
            await half.write(next(iter(split(memoryview(greeting), 4096))))
            await half.write(grant(1))
            assert "lanes were not opened in time" in await ended(half)
            device, server = await place.join("cam-2")
            server.lane(Lane.UP).feed(b"\x00\x09" + bytes(7) + b"abc")
            assert "was not continued" in await device.wait_closed()

    play(scene())


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_idle_connections_cost_little_and_slow_nobody(count: int) -> None:
    async def scene() -> None:
        async with site(Limits(hello_s=60.0)) as place, AsyncExitStack() as stack:
            done = await stack.enter_async_context(witness(place))
            held = memory_bytes()
            idle = []
            for i in range(count):
                mine, _ = await place.join(f"idle-{i}")
                idle.append(mine)
            # As many again that never say a word, nor speak TLS or HTTP/2.
            for _ in range(count):
                _, writer = await asyncio.open_connection("127.0.0.1", place.listener.port)
                stack.callback(writer.close)
            # Both ends of each are in this process.
            assert (memory_bytes() - held) / count < 500_000
            seen = done[0]
            await eventually(lambda: done[0] > seen + 20)
            assert len(place.listener.connections) == count + 1
            assert not any(mine.over for mine in idle)
            for mine in idle:
                mine.end("done")
            await eventually(lambda: len(place.listener.connections) == 1)

    play(scene())


FEW_DESCRIPTORS = """
import asyncio, resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
from cutlayer.network.transport.listener import listen

async def scene():
    listener = await listen("127.0.0.1:0", lambda name, said: None)
    print(listener.port, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        with open("/dev/null"), open("/dev/null"):
            print("it still opens files", flush=True)

asyncio.run(scene())
"""


def test_connections_without_end_leave_a_server_its_files() -> None:
    command = [sys.executable, "-c", FEW_DESCRIPTORS]
    with (
        subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True) as server,
        contextlib.ExitStack() as open_ones,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        for _ in range(200):
            with contextlib.suppress(OSError):
                one = socket.create_connection(("127.0.0.1", port), timeout=5)
                open_ones.enter_context(one)
        for _ in range(3):
            time.sleep(0.2)  # the server takes them one after another
            server.stdin.write("\n")
            server.stdin.flush()
            assert server.stdout.readline() == "it still opens files\n"
        server.kill()
