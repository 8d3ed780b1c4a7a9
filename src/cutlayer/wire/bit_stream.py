"""Codes of 1 to 8 bits as a little-endian bit stream: code i is in bits [q i, q i + q).

Eight codes lie in one 64-bit word, where they are moved together (see `packing`).
"""

import torch
from torch import Tensor

from cutlayer.wire.packing import push_together

_LANES = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Codes below 2^bits, uint8 [8 n], packed into uint8 [n bits]; `codes` may be overwritten."""
    if bits == 8 or not len(codes):
        return codes
    words = codes.view(torch.int64)
    push_together(words, bits)
    if bits in _LANES:
        return words.to(_LANES[bits]).view(torch.uint8)
    return codes.view(-1, 8)[:, :bits].reshape(-1)


def unpack_bits(data: Tensor, bits: int) -> Tensor:
    """Undo `pack_bits`."""
    if bits == 8 or not len(data):
        return data
    if bits in _LANES:
        words = data.view(_LANES[bits]).to(torch.int64)
        words &= (1 << 8 * bits) - 1  # without its sign
    else:
        groups = len(data) // bits
        padded = torch.zeros(groups, 8, dtype=torch.uint8, device=data.device)
        padded[:, :bits] = data.view(groups, bits)
        words = padded.view(-1).view(torch.int64)
    for level in (2, 1, 0):
        low = words & _repeat((1 << (bits << level)) - 1, 16 << level)
        words ^= low
        words <<= (8 - bits) << level
        words |= low
    return words.view(torch.uint8)


def _repeat(pattern: int, stride: int) -> int:
    """`pattern` once in every `stride` bits of a 64-bit word."""
    return sum(pattern << shift for shift in range(0, 64, stride))
