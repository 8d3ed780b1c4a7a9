"""A seeded orthogonal rotation of the width, which spreads outlier channels before quantising.

The rotation is y = H (s * x) with s random signs and H a block-diagonal Hadamard matrix, scaled to
be orthogonal; its blocks are the largest power of two that divides the width D (384 is three
blocks of 128). Where that power is below 32 and is not D itself (312, or an odd width), blocks so
small would spread little: there two blocks of the largest power of two P <= D are applied one
after the other, to the first P and then to the last P channels, with new signs in between (without
them the second block would gather what the first had spread). Both are products of orthogonal
matrices, so the transpose undoes them. As a Kronecker product of small Hadamard matrices, H costs
O(D log D) a token (QuaRot, arXiv 2404.00456, and QuIP#, arXiv 2402.04396, rotate likewise).
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_MIN_BLOCK = 32
_MAX_FACTOR_LOG2 = 5
_PIECE = 2**17


def rotate(x: Tensor, seed: int, counts: Sequence[int] | None = None) -> Tensor:
    """Rotate the last dimension of the float tensor x [..., D]; the inverse is `unrotate`.

    counts: how many rows each of many devices has; on a CPU each device's result is the same as if
    it were rotated alone, to the last bit. None: all rows are of one device.
    """
    width = x.shape[-1]
    block, overlap = layout(width)
    first, second = signs(seed, width, x.dtype, x.device)
    y = (x.contiguous() * first).view(-1, width)
    if not overlap:
        return _hadamard_(y, block, counts).view(x.shape)
    _hadamard_(y[:, :block], block, counts)
    y *= second
    _hadamard_(y[:, width - block :], block, counts)
    return y.view(x.shape)


def unrotate(y: Tensor, seed: int, counts: Sequence[int] | None = None) -> Tensor:
    """Undo `rotate` with the same seed."""
    width = y.shape[-1]
    block, overlap = layout(width)
    first, second = signs(seed, width, y.dtype, y.device)
    x = y.clone(memory_format=torch.contiguous_format).view(-1, width)
    if not overlap:
        return _hadamard_(x, block, counts).mul_(first).view(y.shape)
    _hadamard_(x[:, width - block :], block, counts)
    x *= second
    _hadamard_(x[:, :block], block, counts)
    return x.mul_(first).view(y.shape)


def layout(width: int) -> tuple[int, bool]:
    """The block size, and whether two such blocks overlap (else they tile the width)."""
    block = width & -width
    if block >= _MIN_BLOCK or block == width:
        return block, False
    return 1 << (width.bit_length() - 1), True


@lru_cache(maxsize=64)
def signs(seed: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two vectors of random signs [D], a function of (seed, D) alone on any machine."""
    digest = hashlib.shake_256(f"cutlayer rotation {seed} {width}".encode()).digest(
        -(-2 * width // 8)
    )
    bits = np.unpackbits(np.frombuffer(digest, np.uint8), count=2 * width)
    found = (1 - 2 * torch.from_numpy(bits).to(dtype)).to(device)
    return found[:width], found[width:]


@lru_cache(maxsize=16)
def _factor(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthogonal Hadamard matrix [size, size] in Sylvester's order."""
    matrix = torch.ones(1, 1, dtype=dtype)
    while len(matrix) < size:
        matrix = torch.cat([matrix.repeat(1, 2), torch.cat([matrix, -matrix], 1)])
    return (matrix / math.sqrt(size)).to(device)


def _hadamard_(x: Tensor, block: int, counts: Sequence[int] | None) -> Tensor:
    """Multiply runs of `block` channels by the (symmetric) Hadamard matrix, in place in x [n, m].

    A GPU takes all rows at once, and multiplies in float32 whatever the model's precision is. A
    CPU takes the rows of one device at a time, since its last bits may depend on the number of
    rows, and of these a piece at a time, so that results stay in its cache.
    """
    if x.device.type == "cpu":
        for rows in torch.split(x, [len(x)] if counts is None else list(counts)):
            for piece in torch.split(rows, max(1, _PIECE // x.shape[1])):
                _products_(piece, block)
        return x
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return _products_(x, block)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _products_(x: Tensor, block: int) -> Tensor:
    """As `_hadamard_`, by two or three small dense products; on a CPU these are several times
    faster than log2(block) butterflies or one dense product."""
    log2 = block.bit_length() - 1
    steps = -(-log2 // _MAX_FACTOR_LOG2)
    y = x.contiguous().view(-1, block)
    inner = 1
    for step in range(steps):
        size = 1 << (log2 // steps + (step < log2 % steps))
        factor = _factor(size, x.dtype, x.device)
        if inner == 1:
            y = y.view(-1, size) @ factor
        else:
            y = torch.matmul(factor, y.view(-1, size, inner))
        inner *= size
    return x.copy_(y.view(x.shape))
