"""Frames over streams of small messages, without a network: pieces, limits and credits."""

import asyncio
import random
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import NetworkError
from cutlayer.network.transport.chunks import Assembly, grant, split
from cutlayer.network.transport.lane import LaneStream
from net_helpers import play

CHUNK = 64


def assemble(messages: list[bytes], max_bytes: int = 10**6, allowed: int = 10**6) -> list[bytes]:
    assembly = Assembly(max_bytes)
    assembly.allowed = allowed
    return [came for message in messages if isinstance(came := assembly.feed(message), bytes)]


@given(st.lists(st.binary(max_size=5 * CHUNK)), st.integers(10, 3 * CHUNK))
def test_frames_of_any_size_survive_in_order(frames: list[bytes], size: int) -> None:
    messages = [part for frame in frames for part in split(memoryview(frame), size)]
    assert all(len(message) <= size for message in messages)
    assert assemble(messages) == frames


def test_a_frame_is_refused_when_it_is_declared_and_nothing_is_allocated() -> None:
    first = next(iter(split(memoryview(b"x" * 200), CHUNK)))
    huge = first[:1] + (2**40).to_bytes(8, "little") + first[9:]
    tracemalloc.start()
    try:
        with pytest.raises(NetworkError, match="1099511627776 bytes was declared"):
            assemble([huge])
        # Within the limit, memory still follows what has come, not what was said.
        assemble([huge], max_bytes=2**41)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    "messages",
    [
        [b""],
        [b"\x07abc"],
        [b"\x01abc"],  # goes on with nothing
        [b"\x00\x05"],  # no length
        [b"\x00" + bytes(8) + b"x"],  # more than declared
        [b"\x00\x04" + bytes(7)],  # begins with nothing
        [b"\x00\x04" + bytes(7) + b"ab", b"\x01"],  # goes on with nothing, for ever
        [b"\x00\x04" + bytes(7) + b"ab", b"\x01cde"],
        [b"\x00\x04" + bytes(7) + b"ab", b"\x00\x04" + bytes(7) + b"ab"],
        [b"\x02abc"],
    ],
)
def test_what_no_honest_sender_sends_is_refused(messages: list[bytes]) -> None:
    with pytest.raises(NetworkError):
        assemble(messages)


def test_a_frame_without_credit_is_refused() -> None:
    with pytest.raises(NetworkError, match="without credit"):
        assemble(list(split(memoryview(b"abc"), CHUNK)), allowed=0)


def test_mutated_streams_end_in_frames_or_in_one_error() -> None:
    rng = random.Random(5)
    honest = b"".join(bytes([i % 251]) for i in range(300))
    good = [*split(memoryview(honest), CHUNK), grant(3), *split(memoryview(b""), CHUNK)]
    refused = 0
    for _ in range(5000):
        messages = [bytearray(message) for message in good]
        for _ in range(rng.randint(1, 4)):
            victim = rng.choice(messages)
            if rng.random() < 0.2:
                messages.remove(victim)
            elif rng.random() < 0.2:
                del victim[rng.randrange(len(victim) + 1) :]
            elif victim:
                victim[rng.randrange(len(victim))] ^= 1 << rng.randrange(8)
            if not messages:
                break
        try:
            assemble([bytes(message) for message in messages])
        except NetworkError:
            refused += 1
    assert 1000 < refused < 5000


Lane = LaneStream[bytes]


def lanes(window: int = 2, delay: float = 0.0) -> tuple[Lane, Lane, list[bytes]]:
    """Two ends whose streams are each other's feed, and the messages of the first."""
    ends: list[Lane] = []
    sent: list[bytes] = []

    def writer(other: int) -> Callable[[bytes], asyncio.Future[None]]:
        async def write(message: bytes) -> None:
            await asyncio.sleep(delay)
            if other:
                sent.append(message)
            ends[other].feed(message)

        return write  # type: ignore[return-value]

    def fail(reason: str) -> None:
        for end in ends:
            end.end(NetworkError(reason))

    for other, own in ((1, 0), (0, window)):
        ends.append(
            LaneStream(
                writer(other),
                lambda frame: frame,
                fail,
                window=own,
                max_bytes=10**6,
                chunk_bytes=CHUNK,
                stall_s=0.2,
            )
        )
    return ends[0], ends[1], sent


def test_credits_bound_what_is_under_way() -> None:
    async def scene() -> None:
        device, server, _ = lanes(window=2)
        sending = [asyncio.create_task(device.send(bytes([i]) * 200)) for i in range(10)]
        await asyncio.sleep(0.05)
        assert server.unread == 2
        assert device.waiting == 8
        for i in range(10):
            assert await server.receive() == bytes([i]) * 200
            assert server.unread <= 2
        await asyncio.gather(*sending)
        assert server.counters.received_bytes == device.counters.sent_bytes == 2000
        assert device.counters.sent_overhead_bytes == server.counters.received_overhead_bytes > 0

    play(scene())


def test_a_cancelled_frame_is_not_sent_or_sent_whole() -> None:
    async def scene() -> None:
        device, server, _ = lanes(window=1, delay=0.001)
        first = asyncio.create_task(device.send(b"1" * 1000))
        second = asyncio.create_task(device.send(b"2" * 1000))
        third = asyncio.create_task(device.send(b"3" * 1000))
        while not device.counters.sent_overhead_bytes:
            await asyncio.sleep(0)
        first.cancel()  # it has begun
        second.cancel()  # it has not
        assert await server.receive() == b"1" * 1000
        assert await server.receive() == b"3" * 1000
        await third

    play(scene())


def test_a_stream_that_takes_nothing_in_is_given_up() -> None:
    async def scene() -> None:
        device, _, _ = lanes()
        await asyncio.sleep(0.01)

        async def never(message: bytes) -> None:
            await asyncio.Event().wait()

        device._write = never
        with pytest.raises(NetworkError, match="took nothing in"):
            await device.send(b"x")
        with pytest.raises(NetworkError, match="took nothing in"):
            await device.receive()

    play(scene())


def test_too_large_a_frame_is_the_senders_own_error() -> None:
    async def scene() -> None:
        device, server, _ = lanes()
        with pytest.raises(NetworkError, match="1000001 bytes are more than"):
            await device.send(bytes(10**6 + 1))
        await device.send(b"still alive")
        assert await server.receive() == b"still alive"

    play(scene())
