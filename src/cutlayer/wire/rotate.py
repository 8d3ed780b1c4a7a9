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
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_MIN_BLOCK = 32
_MAX_FACTOR_LOG2 = 5
_PIECE = 2**17


def rotate(x: Tensor, seed: int) -> Tensor:
    """Rotate the last dimension of the CPU float tensor x [..., D]; the inverse is `unrotate`."""
    width = x.shape[-1]
    block, overlap = layout(width)
    first, second = signs(seed, width, x.dtype)
    y = (x.contiguous() * first).view(-1, width)
    if not overlap:
        return _hadamard_(y, block).view(x.shape)
    _hadamard_(y[:, :block], block)
    y *= second
    _hadamard_(y[:, width - block :], block)
    return y.view(x.shape)


def unrotate(y: Tensor, seed: int) -> Tensor:
    """Undo `rotate` with the same seed."""
    width = y.shape[-1]
    block, overlap = layout(width)
    first, second = signs(seed, width, y.dtype)
    x = y.clone(memory_format=torch.contiguous_format).view(-1, width)
    if not overlap:
        return _hadamard_(x, block).mul_(first).view(y.shape)
    _hadamard_(x[:, width - block :], block)
    x *= second
    _hadamard_(x[:, :block], block)
    return x.mul_(first).view(y.shape)


def layout(width: int) -> tuple[int, bool]:
    """The block size, and whether two such blocks overlap (else they tile the width)."""
    block = width & -width
    if block >= _MIN_BLOCK or block == width:
        return block, False
    return 1 << (width.bit_length() - 1), True


@lru_cache(maxsize=64)
def signs(seed: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two vectors of random signs [D], a function of (seed, D) alone on any machine."""
    digest = hashlib.shake_256(f"cutlayer rotation {seed} {width}".encode()).digest(
        -(-2 * width // 8)
    )
    bits = np.unpackbits(np.frombuffer(digest, np.uint8), count=2 * width)
    signs = 1 - 2 * torch.from_numpy(bits).to(dtype)
    return signs[:width], signs[width:]


@lru_cache(maxsize=16)
def _factor(size: int, dtype: torch.dtype) -> Tensor:
    """The orthogonal Hadamard matrix [size, size] in Sylvester's order."""
    matrix = torch.ones(1, 1, dtype=dtype)
    while len(matrix) < size:
        matrix = torch.cat([matrix.repeat(1, 2), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)


def _hadamard_(x: Tensor, block: int) -> Tensor:
    """Multiply runs of `block` channels by the (symmetric) Hadamard matrix, in place in x [n, m].

    Two or three small dense products are several times faster on a CPU than log2(block)
    butterflies or one dense product, and a piece at a time keeps their results in its cache.
    """
    log2 = block.bit_length() - 1
    steps = -(-log2 // _MAX_FACTOR_LOG2)
    sizes = [1 << (log2 // steps + (step < log2 % steps)) for step in range(steps)]
    rows = max(1, _PIECE // x.shape[1])
    for start in range(0, len(x), rows):
        piece = x[start : start + rows]
        y = piece.contiguous().view(-1, block)
        inner = 1
        for size in sizes:
            factor = _factor(size, x.dtype)
            if inner == 1:
                y = y.view(-1, size) @ factor
            else:
                y = torch.matmul(factor, y.view(-1, size, inner))
            inner *= size
        piece.copy_(y.view(piece.shape))
    return x
