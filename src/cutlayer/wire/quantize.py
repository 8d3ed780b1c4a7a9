"""Rows of numbers to packed bits and back: 1 to 8 bits a value, bfloat16 (16) or float32 (32).

A quantised body is: one float32 scale; for every group (a row, or the whole tensor) its float16
range in units of that scale, which keeps gradients of 1e-6 within float16's reach; then the codes,
code i in bits [q i, q i + q) of a little-endian bit stream. The range is `lo` and `hi` for uniform
levels, the RMS for Gaussian ones and one's own: all `lo`, then all `hi`. The encoder rounds the
ranges first and quantises with the rounded values, those the decoder will read; `lo` and `hi` are
rounded outwards, so that every value lies between them.

All this is outside the autograd graph: what is decoded is a plain tensor, and a caller who treats
it as the value that was encoded (`decoded.requires_grad_()` on one side, `backward(decoded)` on
the other) has the straight-through gradient.
"""

import math
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.errors import FrameError, RunError
from cutlayer.settings.method import LEVELS, Quantizer
from cutlayer.wire.custom_levels import own_levels
from cutlayer.wire.packing import pack_bits, pack_floats, pack_ranges, unpack_bits

Float32 = NDArray[np.float32]
Levels = Float32 | NDArray[np.float64]

TINY = float(np.finfo(np.float32).tiny)
"""No group's range below this is divided by."""
CELLS = 4096
"""Cells of the line in which a code is looked up (see `gaussian_cells`)."""
_PIECE = 2**17


def quantize(
    x: Tensor, quantizer: Quantizer, rng: torch.Generator | None = None, what: str = "tensor"
) -> bytes:
    """Quantise the float32 rows x [n, D]; `quantizer.rotate` and `.entropy` are not read here.

    rng: a CPU generator, needed for stochastic rounding at 1-8 bits. what: names x in errors.
    Raises RunError where x holds NaN or infinity (or values whose range float32 cannot hold).
    """
    if x.numel() == 0:
        return b""
    if quantizer.bits == 32:
        return pack_floats(finite(x, what).contiguous().numpy(), 32)
    if quantizer.bits == 16:
        finite(x.to(torch.bfloat16), what)  # rounding may make the largest infinite
        return pack_floats(x.contiguous().numpy(), 16)
    groups = x.contiguous() if quantizer.per == "token" else x.reshape(1, -1)
    if quantizer.levels == "gaussian":
        nearest = partial(_nearest_gaussian, bits=quantizer.bits)
        ranges, codes = _scaled_codes(groups, gaussian_levels(quantizer.bits), what, nearest)
    elif quantizer.levels != "uniform":
        levels = own_levels(quantizer.levels, quantizer.bits)
        ranges, codes = _scaled_codes(groups, levels, what, partial(_nearest, levels=levels))
    elif quantizer.rounding == "stochastic":
        if rng is None:
            raise ValueError("stochastic rounding needs a generator: pass rng")
        ranges, codes = _uniform_codes(groups, quantizer.bits, what, _dither(groups, rng))
    else:
        ranges, codes = _uniform_codes(groups, quantizer.bits, what, 0.5)
    return ranges + pack_bits(codes.reshape(-1), quantizer.bits)


def dequantize(
    body: bytes | memoryview,
    rows: int,
    width: int,
    quantizer: Quantizer,
    own: NDArray[np.float32] | None = None,
) -> Tensor:
    """The float32 tensor [rows, width] of a body that `quantize` made with the same settings.

    own: the sender's levels, which take the place of the Gaussian ones.
    The caller checks len(body) == body_bytes(...). Raises FrameError where the body holds ranges
    or values that are not finite numbers, or its levels are neither known nor given.
    """
    bits, shape = quantizer.bits, (rows, width)
    if rows * width == 0:
        return torch.zeros(shape)
    if bits == 32:
        return sound(torch.from_numpy(np.frombuffer(body, "<f4").astype(np.float32))).view(shape)
    if bits == 16:
        wide = np.frombuffer(body, "<u2").astype(np.uint32)
        wide <<= 16
        return sound(torch.from_numpy(wide.view(np.float32))).view(shape)
    if own is None and quantizer.levels not in LEVELS:
        raise FrameError(
            f"the frame's levels {quantizer.levels!r} are not known here: have them sent along, or "
            f"take {' or '.join(LEVELS)}"
        )
    groups = rows if quantizer.per == "token" else 1
    fields = 2 if quantizer.levels == "uniform" else 1
    levels = gaussian_levels(bits) if own is None else own
    start = 4 + 2 * fields * groups
    scale = np.frombuffer(body, "<f4", 1)[0]
    relative = np.frombuffer(body, "<f2", fields * groups, 4).reshape(fields, groups)
    codes = unpack_bits(body[start:], bits, rows * width)
    with np.errstate(over="ignore", invalid="ignore"):
        ranges = relative.astype(np.float32) * scale
        # The span too: two finite ends can lie further apart than float32 reaches.
        span = ranges[1] - ranges[0] if fields == 2 else ranges[0] * _reach(levels)
    if (
        not np.isfinite(ranges).all()
        or not np.isfinite(span).all()
        or (ranges[0] > ranges[-1]).any()
    ):
        raise FrameError("the frame's quantiser ranges are not valid: have it sent again")
    if quantizer.levels == "uniform":
        y = torch.from_numpy(codes.astype(np.float32)).view(groups, -1)
        y.mul_(_column(_step(ranges[0], ranges[1], bits))).add_(_column(ranges[0]))
    else:
        table = torch.from_numpy(levels.astype(np.float32))
        index = torch.from_numpy(codes.astype(np.int32))
        y = table.index_select(0, index).view(groups, -1).mul_(_column(ranges[0]))
    return y.view(shape)


def sound(x: Tensor) -> Tensor:
    """x, a decoded tensor that is not empty, or FrameError where it holds NaN or infinity."""
    low, high = x.min().item(), x.max().item()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise FrameError("the frame's tensor holds NaN or infinity: have it sent again")
    return x


def finite(x: Tensor, what: str) -> Tensor:
    """x, a tensor to encode that is not empty, or RunError where it holds NaN or infinity."""
    low, high = x.min().item(), x.max().item()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise _not_finite(what)
    return x


def _not_finite(what: str) -> RunError:
    return RunError(
        f"the {what} contains NaN, infinity or values beyond float32: lower the learning rate"
    )


def _column(values: Float32) -> Tensor:
    return torch.from_numpy(values).unsqueeze(1)


def _step(lo: Float32, hi: Float32, bits: int) -> Float32:
    return (hi - lo) / np.float32(2**bits - 1)


def _dither(groups: Tensor, rng: torch.Generator) -> Tensor:
    """Uniform numbers in (0, 1) of 16 bits each, drawn four at a time: a third of rand's cost."""
    words = torch.empty(-(-groups.numel() // 4), dtype=torch.int64)
    words.random_(-(2**63), None, generator=rng)
    u = words.view(torch.int16)[: groups.numel()].to(torch.float32)
    return u.mul_(2.0**-16).add_(0.5 + 2.0**-17).view_as(groups)


def _relative(values: Float32, scale: np.float32, towards: float) -> NDArray[np.float16]:
    """`values` / scale in float16, moved one step `towards` where rounding fell short of it."""
    near = (values / (scale or np.float32(1))).astype(np.float16)
    back = near.astype(np.float32) * scale
    short = back > values if towards < 0 else back < values
    return np.where(short, np.nextafter(near, np.float16(towards)), near)


def _uniform_codes(
    groups: Tensor, bits: int, what: str, rounding: float | Tensor
) -> tuple[bytes, NDArray[np.uint8]]:
    low, high = groups.amin(1).numpy(), groups.amax(1).numpy()
    scale = np.maximum(high.max(), -low.min())
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isfinite(high - low).all():
            raise _not_finite(what)
        lo16, hi16 = _relative(low, scale, -np.inf), _relative(high, scale, np.inf)
        lo, hi = lo16.astype(np.float32) * scale, hi16.astype(np.float32) * scale
        step = _step(lo, hi, bits)
        if not np.isfinite(step).all():
            raise _not_finite(what)
    inverse = np.zeros_like(step)
    np.divide(1, step, out=inverse, where=step >= TINY)
    codes = torch.sub(groups, _column(lo)).mul_(_column(inverse)).add_(rounding)
    codes.clamp_(0, 2**bits - 1)
    return pack_ranges(scale, lo16, hi16), codes.numpy().astype(np.uint8)


def _scaled_codes(
    groups: Tensor, levels: Levels, what: str, nearest: Callable[[Tensor], NDArray[np.uint8]]
) -> tuple[bytes, NDArray[np.uint8]]:
    norms = torch.linalg.vector_norm(groups, dim=1, dtype=torch.float64).numpy()
    rms = (norms / groups.shape[1] ** 0.5).astype(np.float32)
    scale = rms.max()
    with np.errstate(over="ignore"):
        reach = scale * _reach(levels)
    if not np.isfinite(norms).all() or not np.isfinite(reach):
        raise _not_finite(what)
    rms16 = (rms / (scale or np.float32(1))).astype(np.float16)
    rms = rms16.astype(np.float32) * scale
    inverse = np.zeros_like(rms)
    np.divide(1, rms, out=inverse, where=rms >= TINY)
    return pack_ranges(scale, rms16), nearest(groups * _column(inverse))


def _reach(levels: Levels) -> np.float32:
    return np.float32(np.abs(levels).max())


def _nearest(z: Tensor, levels: Levels) -> NDArray[np.uint8]:
    edges = torch.from_numpy((levels[1:] + levels[:-1]) / 2)
    return torch.bucketize(z.view(-1), edges, right=True).to(torch.uint8).numpy()


def _nearest_gaussian(z: Tensor, bits: int) -> NDArray[np.uint8]:
    """The code of the nearest level for each z: a look-up ten times faster than a binary search.

    The line is cut into cells so small that each holds one boundary between levels at most; a
    cell's code is the one at its left end, plus one beyond the boundary within it.
    """
    first, edge, limit = gaussian_cells(bits)
    codes = torch.empty(z.numel(), dtype=torch.uint8)
    # A piece at a time, whose intermediate results stay in the cache.
    flat = z.view(-1)
    for start in range(0, len(flat), _PIECE):
        piece, out = flat[start : start + _PIECE], codes[start : start + _PIECE]
        cell = torch.add(piece, limit).mul_(CELLS / (2 * limit)).clamp_(0, CELLS - 1)
        index = torch.from_numpy(cell.numpy().astype(np.int32))
        torch.add(first.index_select(0, index), edge.index_select(0, index) <= piece, out=out)
    return codes.numpy()


@cache
def gaussian_cells(bits: int) -> tuple[Tensor, Tensor, float]:
    """Of each of `CELLS` cells between -limit and limit: the code at its left end (uint8), and the
    boundary within it, infinite where there is none (float32); and the limit."""
    levels = gaussian_levels(bits)
    edges = (levels[1:] + levels[:-1]) / 2
    limit = float(edges[-1]) + 0.1
    left = np.linspace(-limit, limit, CELLS, endpoint=False)
    first = np.searchsorted(edges, left)
    edge = np.append(edges, np.inf)[first].astype(np.float32)
    return torch.from_numpy(first.astype(np.uint8)), torch.from_numpy(edge), limit


@cache
def gaussian_levels(bits: int) -> NDArray[np.float64]:
    """The 2^bits Lloyd-Max levels of a standard normal, ascending (Max 1960, Table I).

    Each level is the mean of its cell, and cells meet half-way between levels. Newton's method on
    the positive half (the levels are symmetric), started from Panter and Dite's high-rate
    approximation, takes some ten steps where Lloyd's iteration takes thousands.
    """
    half = 2 ** (bits - 1)
    quantiles = (torch.arange(half, dtype=torch.float64) + 0.5) / (2 * half) + 0.5
    levels = (math.sqrt(3) * torch.special.ndtri(quantiles)).numpy()
    for _ in range(100):
        edges = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        density = np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
        tail = torch.special.ndtr(torch.from_numpy(-edges)).numpy()
        mass = tail[:-1] - tail[1:]
        means = (density[:-1] - density[1:]) / mass
        # d mean / d edge, and each inner edge moves by half of either neighbour's move.
        reach = np.where(np.isinf(edges), 0.0, edges)
        by_left = density[:-1] * (means - reach[:-1]) / mass / 2
        by_right = density[1:] * (reach[1:] - means) / mass / 2
        by_left[0] = 0.0
        jacobian = np.diag(1 - by_left - by_right)
        jacobian -= np.diag(by_right[:-1], 1) + np.diag(by_left[1:], -1)
        move = np.linalg.solve(jacobian, levels - means)
        levels = levels - move
        if np.abs(move).max() < 1e-12:
            break
    return np.concatenate([-levels[::-1], levels])
