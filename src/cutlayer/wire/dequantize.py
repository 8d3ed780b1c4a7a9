"""Turns the packed bits of quantize.py back into rows of numbers, of many devices in one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.errors import FrameError
from cutlayer.settings.method import LEVELS, Quantizer
from cutlayer.wire.bit_stream import unpack_bits
from cutlayer.wire.levels import gaussian_levels, reach_of
from cutlayer.wire.transfer import from_bytes, is_finite, to_device, to_host

Float32 = NDArray[np.float32]
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Dequantised:
    """Rows of many devices.

    values: [n, D]. faults: the error of each body that is not valid, by the body's place. bound: no
    magnitude in the other bodies is above it; infinite if that is not known.
    """

    values: Tensor
    faults: dict[int, FrameError]
    bound: float


def dequantize(
    body: bytes | memoryview,
    rows: int,
    width: int,
    quantizer: Quantizer,
    own: Float32 | None = None,
) -> Tensor:
    """The float32 tensor [rows, width] of one body, on the CPU; see `dequantize_all`."""
    found = dequantize_all([body], [rows], width, quantizer, own)
    for fault in found.faults.values():
        raise fault
    return found.values


def dequantize_all(
    bodies: Sequence[bytes | memoryview],
    counts: Sequence[int],
    width: int,
    quantizer: Quantizer,
    own: Float32 | None = None,
    device: torch.device = CPU,
) -> Dequantised:
    """The float32 rows of bodies that `quantize_all` made with the same settings, on `device`.

    counts: rows of each body. own: the sender's levels, in place of the Gaussian ones. The caller
    checks that each body is as long as `frame_bytes.body_bytes` says. A body with ranges or values
    that are not finite numbers is a fault. Raises FrameError if the levels are neither known nor
    given.
    """
    bits = quantizer.bits
    if sum(counts) * width == 0:
        return Dequantised(torch.zeros(sum(counts), width, device=device), {}, 0.0)
    if bits > 8:
        raw = from_bytes(bodies, [len(body) for body in bodies], device)
        plain = raw.view(torch.float32 if bits == 32 else torch.bfloat16)
        values = plain.to(torch.float32).view(-1, width)
        return Dequantised(values, unsound(values, counts), np.inf)
    if own is None and quantizer.levels not in LEVELS:
        raise FrameError(
            f"the frame's levels {quantizer.levels!r} are not known here: have them sent along, or "
            f"take {' or '.join(LEVELS)}"
        )
    uniform, levels = quantizer.levels == "uniform", gaussian_levels(bits) if own is None else own
    groups = counts if quantizer.per == "token" else [min(count, 1) for count in counts]
    ranges = _ranges(bodies, groups, 2 if uniform else 1)
    with np.errstate(over="ignore", invalid="ignore"):
        # The span is checked too: two finite ends can lie further apart than float32 reaches.
        span = ranges[1] - ranges[0] if uniform else ranges[0] * reach_of(levels)
        fine = np.isfinite(ranges).all(0) & np.isfinite(span) & (ranges[0] <= ranges[-1])
        columns = np.stack([span / np.float32(2**bits - 1), ranges[0]]) if uniform else ranges
        bound = max(float(np.abs(ranges).max()), float(np.abs(span).max()))
    if quantizer.per == "tensor":
        columns = columns.repeat([count for count in counts if count], axis=1)
    at = to_device(torch.from_numpy(columns), device).unsqueeze(2)
    codes = _codes(bodies, counts, width, bits, device)
    if uniform:
        values = codes.to(torch.float32).mul_(at[0]).add_(at[1])
    else:
        table = to_device(torch.from_numpy(levels.astype(np.float32)), device)
        values = table.index_select(0, codes.view(-1).to(torch.int32)).view_as(codes).mul_(at[0])
    owners = np.repeat(np.arange(len(counts)), groups)
    return Dequantised(values, {int(at): _bad_ranges() for at in owners[~fine]}, bound)


def unsound(values: Tensor, counts: Sequence[int]) -> dict[int, FrameError]:
    """The bodies whose decoded values [n, D] hold NaN or infinity, by place."""
    if is_finite(values):
        return {}
    return {
        place: _not_finite()
        for place, part in enumerate(torch.split(to_host(values), list(counts)))
        if not part.isfinite().all()
    }


def sound(x: Tensor) -> Tensor:
    """x, a decoded tensor that is not empty, or FrameError where it holds NaN or infinity."""
    if not is_finite(x):
        raise _not_finite()
    return x


def _not_finite() -> FrameError:
    return FrameError("the frame's tensor holds NaN or infinity: have it sent again")


def _bad_ranges() -> FrameError:
    return FrameError("the frame's quantiser ranges are not valid: have it sent again")


def _ranges(bodies: Sequence[bytes | memoryview], groups: Sequence[int], fields: int) -> Float32:
    """The ranges of all groups, [fields, groups]."""
    held = [(body, count) for body, count in zip(bodies, groups, strict=True) if count]
    scales = np.concatenate([np.frombuffer(body, "<f4", 1) for body, _ in held])
    relative = np.concatenate(
        [np.frombuffer(body, "<f2", fields * n, 4).reshape(fields, n) for body, n in held], axis=1
    )
    with np.errstate(over="ignore", invalid="ignore"):
        ranges: Float32 = relative.astype(np.float32) * scales.repeat([n for _, n in held])
    return ranges


def _codes(
    bodies: Sequence[bytes | memoryview],
    counts: Sequence[int],
    width: int,
    bits: int,
    device: torch.device,
) -> Tensor:
    """The codes of all rows, uint8 [n, D], which are at the end of every body."""
    lengths = [count * width for count in counts]
    streams = [
        body[len(body) - -(-length * bits // 8) :]
        for body, length in zip(bodies, lengths, strict=True)
    ]
    padded = [-(-length // 8) for length in lengths]
    codes = unpack_bits(from_bytes(streams, [bits * words for words in padded], device), bits)
    if any(length % 8 for length in lengths):
        starts = [8 * words for words in accumulate(padded, initial=0)]
        parts = zip(pairwise(starts), lengths, strict=True)
        codes = torch.cat([codes[start : start + length] for (start, _), length in parts])
    return codes.view(-1, width)
