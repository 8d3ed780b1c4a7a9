"""Packs whole numbers below 2^bits and floats into bytes, in numpy alone, so for all devices.

The bit streams are little-endian: code i lies in bits [q i, q i + q).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

_LANES: dict[int, str] = {1: "u1", 2: "<u2", 4: "<u4"}
_MASKS = (0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF, 0x00000000FFFFFFFF)

Words = TypeVar("Words", "NDArray[np.int64]", "Tensor")


def push_together(words: Words, bits: int) -> None:
    """In each 64-bit word, which holds eight codes of 1 to 7 bits in a byte each, move the codes to
    the low end, in place: by one, two and then four codes at a time.

    words: of numpy or of torch, little-endian in memory.
    """
    for level, mask in enumerate(_MASKS):
        low = words & mask
        words ^= low
        words >>= (8 - bits) << level
        words |= low


def pack_bits(codes: NDArray[np.uint8], bits: int) -> bytes:
    """Codes below 2^bits (1-8) as a little-endian bit stream of ceil(n bits / 8) bytes; see
    `bit_stream.pack_bits` for tensors."""
    if bits == 8:
        return codes.tobytes()
    count = len(codes)
    padded = np.zeros(-(-count // 8) * 8, np.uint8)
    padded[:count] = codes
    words = padded.view("<i8")
    push_together(words, bits)
    if bits in _LANES:
        packed = words.astype(_LANES[bits]).tobytes()
    else:
        packed = padded.reshape(-1, 8)[:, :bits].tobytes()
    return packed[: -(-count * bits // 8)]


def pack_floats(values: NDArray[np.float32], bits: int) -> bytes:
    """Float32 values unchanged (32 bits) or rounded to the nearest bfloat16, ties to even (16).

    The caller makes sure that they are finite; the largest may round to infinity in 16 bits.
    """
    if bits == 32:
        return values.astype("<f4", copy=False).tobytes()
    whole = np.ascontiguousarray(values, np.float32).view(np.uint32)
    half = (whole >> np.uint32(16)) & np.uint32(1)
    return ((whole + np.uint32(0x7FFF) + half) >> np.uint32(16)).astype("<u2").tobytes()


def pack_ranges(scale: np.float32, *relative: NDArray[np.float16]) -> bytes:
    """The bytes before the codes: one scale, then each group's range in units of that scale."""
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
    """Flags (bool, or 0 and 1) in row-major order, one bit each."""
    return np.packbits(flags.reshape(-1).astype(np.uint8), bitorder="little").tobytes()
