"""Whole numbers below 2^bits and floats as bytes, in numpy alone: what all devices share.

The bit streams are little-endian: code i lies in bits [q i, q i + q).
"""

import numpy as np
from numpy.typing import NDArray

_WORD = np.dtype("<u8")
_LANES: dict[int, str] = {1: "u1", 2: "<u2", 4: "<u4"}
_MASKS = (0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF, 0x00000000FFFFFFFF)


def pack_bits(codes: NDArray[np.uint8], bits: int) -> bytes:
    """Codes below 2^bits (1-8) as a little-endian bit stream of ceil(n bits / 8) bytes.

    Eight codes fill one 64-bit word whose neighbours are pushed together, by one, two and then
    four codes at a time.
    """
    if bits == 8:
        return codes.tobytes()
    count = len(codes)
    padded = np.zeros(-(-count // 8) * 8, np.uint8)
    padded[:count] = codes
    words = padded.view(_WORD)
    for level, mask in enumerate(_MASKS):
        gap = (8 - bits) << level
        low = words & np.uint64(mask)
        words ^= low
        words >>= np.uint64(gap)
        words |= low
    if bits in _LANES:
        packed = words.astype(_LANES[bits]).tobytes()
    else:
        packed = padded.reshape(-1, 8)[:, :bits].tobytes()
    return packed[: -(-count * bits // 8)]


def unpack_bits(data: bytes | memoryview, bits: int, count: int) -> NDArray[np.uint8]:
    """Undo `pack_bits`: the `count` codes."""
    if bits == 8:
        return np.frombuffer(data, np.uint8)
    groups = -(-count // 8)
    whole = np.zeros(groups * bits, np.uint8)
    whole[: len(data)] = np.frombuffer(data, np.uint8)
    if bits in _LANES:
        words = whole.view(_LANES[bits]).astype(_WORD)
    else:
        padded = np.zeros((groups, 8), np.uint8)
        padded[:, :bits] = whole.reshape(groups, bits)
        words = padded.reshape(-1).view(_WORD)
    for level in (2, 1, 0):
        gap, lane = (8 - bits) << level, bits << level
        low = words & np.uint64(_repeat((1 << lane) - 1, 16 << level))
        words ^= low
        words <<= np.uint64(gap)
        words |= low
    return words.view(np.uint8)[:count]


def _repeat(pattern: int, stride: int) -> int:
    """`pattern` once in every `stride` bits of a 64-bit word."""
    return sum(pattern << shift for shift in range(0, 64, stride))


def pack_floats(values: NDArray[np.float32], bits: int) -> bytes:
    """Float32 values as they are (32 bits), or rounded to bfloat16, the nearest and even one (16).

    The caller makes sure that they are finite; the largest may round to infinity in 16 bits.
    """
    if bits == 32:
        return values.astype("<f4", copy=False).tobytes()
    whole = np.ascontiguousarray(values, np.float32).view(np.uint32)
    half = (whole >> np.uint32(16)) & np.uint32(1)
    return ((whole + np.uint32(0x7FFF) + half) >> np.uint32(16)).astype("<u2").tobytes()


def pack_ranges(scale: np.float32, *relative: NDArray[np.float16]) -> bytes:
    """What stands before the codes: one scale, then each group's range in units of it."""
    parts = [np.float32(scale).astype("<f4"), *(one.astype("<f2") for one in relative)]
    return b"".join(part.tobytes() for part in parts)


def label_bits(num_classes: int) -> int:
    """Bits that one label takes: ceil(log2(num_classes))."""
    return (num_classes - 1).bit_length()


def pack_labels(labels: NDArray[np.int64], num_classes: int) -> bytes:
    """Labels below num_classes, one after another, in `label_bits` each."""
    bits = labels[:, None] >> np.arange(label_bits(num_classes)) & 1
    return pack_flags(bits)


def pack_flags(flags: NDArray[np.generic]) -> bytes:
    """Zeros and ones, or truths, in row-major order: one bit each."""
    return np.packbits(flags.reshape(-1).astype(np.uint8), bitorder="little").tobytes()
