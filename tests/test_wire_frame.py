"""The envelope: compact, exact, and closed to all that is not one intact frame."""

import random
import struct
import tracemalloc
import zlib

import msgspec
import pytest
import zstandard

from cutlayer.errors import FrameError
from cutlayer.wire import entropy
from cutlayer.wire.frame import MAX_HEADER_BYTES, kind_of, pack, unpack


class Header(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    number: int
    text: str


HEADER = Header(7, "seven")
FRAME = pack("gradient", HEADER, b"body of it")


def read(frame: bytes, max_bytes: int = 2**20) -> tuple[Header, bytes]:
    header, body = unpack(frame, "gradient", Header, max_bytes)
    return header, bytes(body)


def test_a_frame_comes_back_and_costs_22_bytes_beside_header_and_body() -> None:
    assert read(FRAME) == (HEADER, b"body of it")
    assert read(bytearray(FRAME)) == read(memoryview(FRAME)) == (HEADER, b"body of it")
    assert len(FRAME) == 22 + len(msgspec.msgpack.encode(HEADER)) + len(b"body of it")
    assert read(pack("gradient", HEADER, b"")) == (HEADER, b"")
    assert kind_of(FRAME) == "gradient"


def test_the_body_is_a_view_not_a_copy() -> None:
    frame = pack("gradient", HEADER, bytes(2**22))
    tracemalloc.start()
    unpack(frame, "gradient", Header)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**14


def test_every_truncation_extension_and_bit_flip_is_refused() -> None:
    for size in range(len(FRAME)):
        with pytest.raises(FrameError):
            read(FRAME[:size])
    for extra in (b"\0", FRAME):
        with pytest.raises(FrameError):
            read(FRAME + extra)
    for bit in range(8 * len(FRAME)):
        flipped = bytearray(FRAME)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            read(flipped)


def test_foreign_bytes_are_refused() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        with pytest.raises(FrameError):
            read(rng.randbytes(rng.randrange(100)))
    for foreign in (b"PK\x03\x04" + bytes(40), b"\x80\x04cos\nsystem\n" + bytes(40)):
        with pytest.raises(FrameError, match="not a frame of cutlayer"):
            read(foreign)


def test_each_refusal_says_what_was_wrong() -> None:
    cases = [
        (FRAME[:4] + b"\x09" + FRAME[5:], "version 9"),
        (FRAME[:5] + b"\x63" + FRAME[6:], "unknown kind 99"),
        (FRAME[:5] + b"\x01" + FRAME[6:], "activations came instead of one of gradient"),
        (FRAME[:6] + struct.pack("<I", MAX_HEADER_BYTES + 1) + FRAME[10:], "above the limit"),
        (FRAME[:10] + struct.pack("<Q", 2**40) + FRAME[18:], "declares 10995"),
        (FRAME[:10] + struct.pack("<Q", 2**64 - 1) + FRAME[18:], "declares 1844"),
        (FRAME[:-1] + b"!", "checksum"),
    ]
    for frame, sentence in cases:
        with pytest.raises(FrameError, match=sentence):
            read(frame)
    with pytest.raises(FrameError, match=f"above max_bytes {len(FRAME) - 1}"):
        read(FRAME, max_bytes=len(FRAME) - 1)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"\x92\x01",
        b"\x91\x01",
        b"\x92\xa1a\xa1b",
        b"\x92\x01\xa1\xff",
        b"\x93\x01\xa1a\x01",
        b"\x82\x01\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\x92\xcf" + b"\xff" * 8,
        b"\x91" * 90_000,
        b"\x92\x01\xa1a\x00",
    ],
)
def test_headers_that_are_sealed_but_not_valid_are_refused(packed: bytes) -> None:
    prefix = FRAME[:6] + struct.pack("<IQ", len(packed), 0)
    checksum = struct.pack("<I", zlib.crc32(packed, zlib.crc32(prefix)))
    with pytest.raises(FrameError, match="header is not valid"):
        read(prefix + checksum + packed)


def test_what_could_not_be_read_is_not_written() -> None:
    with pytest.raises(FrameError, match="send fewer"):
        pack("adapter", Header(1, "x" * MAX_HEADER_BYTES), b"")
    with pytest.raises(FrameError, match="header is not valid"):
        pack("adapter", Header("one", "x"), b"")  # type: ignore[arg-type]


def test_compression_is_used_only_where_it_is_shorter_and_is_undone() -> None:
    assert entropy.compress(random.Random(0).randbytes(4000)) is None
    assert entropy.compress(b"") is None
    coded = entropy.compress(b"ab" * 4000)
    assert coded is not None
    assert len(coded) < 100
    assert entropy.decompress(coded, 8000) == b"ab" * 4000


def test_a_compressed_body_of_another_size_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.compress(bytes(2**28))
    assert len(bomb) < 2**15
    streamed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**20))
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=1)
    wide = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=100)
    window = wide.compress(bytes(100)) + wide.flush()
    tracemalloc.start()
    for data in (bomb, streamed, bomb[:-1], b"", b"\0" * 9, window[:-1], window + b"\0"):
        with pytest.raises(FrameError, match="compressed body"):
            entropy.decompress(data, 100)
    lying = bytearray(zstandard.compress(bytes(200)))
    lying[5] = 100  # the content size, in the byte after magic and descriptor
    with pytest.raises(FrameError, match="compressed body"):
        entropy.decompress(bytes(lying), 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**16
