"""Packs rows of numbers into bits: 1 to 8 bits a value, bfloat16 (16) or float32 (32).

A quantised body is: one float32 scale; for every group (a row, or the whole tensor) its float16
range in units of that scale, so that gradients of 1e-6 are within float16's reach; then the codes
(see bit_stream.py). The range is `lo` and `hi` for uniform levels (all `lo`, then all `hi`), and
the RMS for Gaussian levels and a user's own. The encoder rounds the ranges first and quantises with
the rounded values, which the decoder will read; `lo` and `hi` are rounded outwards, so that every
value lies between them. dequantize.py reads bodies.

Rows of many devices are quantised in one call, on the torch device where they are, and come to the
CPU in one copy; each device's body is the same as if it were quantised alone.

Nothing here is in the autograd graph: a decoded value is a plain tensor. A caller who treats it as
the value that was encoded (`decoded.requires_grad_()` on one side, `backward(decoded)` on the
other) gets the straight-through gradient.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cutlayer.errors import RunError
from cutlayer.settings.method import Quantizer
from cutlayer.wire.bit_stream import pack_bits
from cutlayer.wire.custom_levels import own_levels
from cutlayer.wire.levels import Levels, gaussian_levels, nearest, nearest_gaussian, reach_of
from cutlayer.wire.transfer import Octets, bytes_of, ends, is_finite, to_device, to_host

TINY = float(np.finfo(np.float32).tiny)
"""A group whose range is below this is not divided by it."""


def quantize(
    x: Tensor, quantizer: Quantizer, rng: torch.Generator | None = None, what: str = "tensor"
) -> bytes:
    """Quantise the rows x [n, D] of one tensor; see `quantize_all`."""
    return quantize_all(x, [len(x)], quantizer, None if rng is None else [rng], [what])[0]


def quantize_all(
    x: Tensor,
    counts: Sequence[int],
    quantizer: Quantizer,
    rngs: Sequence[torch.Generator] | None,
    whats: Sequence[str],
) -> list[bytes]:
    """Quantise the float32 rows x [n, D] of many devices: `counts[0]` rows of the first, and so on.

    `quantizer.rotate` and `.entropy` have no effect here. rngs: a CPU generator for each device,
    needed for stochastic rounding at 1-8 bits. whats: names of the devices' tensors in errors.
    Raises RunError if one holds NaN or infinity, or values whose range float32 cannot hold.
    """
    if x.numel() == 0:
        return [b""] * len(counts)
    if quantizer.bits > 8:
        return _whole(x if quantizer.bits == 32 else x.to(torch.bfloat16), counts, whats)
    held = [place for place, count in enumerate(counts) if count]
    rows = _Rows(
        x, [counts[at] for at in held], [whats[at] for at in held], quantizer.per == "token"
    )
    found = iter(_quantized(rows, quantizer, rngs and [rngs[at] for at in held]))
    return [next(found) if count else b"" for count in counts]


def _quantized(
    rows: "_Rows", quantizer: Quantizer, rngs: Sequence[torch.Generator] | None
) -> list[bytes]:
    bits = quantizer.bits
    if quantizer.levels == "gaussian":
        return _scaled(rows, bits, gaussian_levels(bits), partial(nearest_gaussian, bits=bits))
    if quantizer.levels != "uniform":
        levels = own_levels(quantizer.levels, bits)
        return _scaled(rows, bits, levels, partial(nearest, levels=levels))
    if quantizer.rounding == "nearest":
        return _uniform(rows, bits, 0.5)
    if rngs is None:
        raise ValueError("stochastic rounding needs a generator: pass rng")
    return _uniform(rows, bits, _dither(rows.x, rows.counts, rngs))


def _whole(values: Tensor, counts: Sequence[int], whats: Sequence[str]) -> list[bytes]:
    """Each device's values [n, D] as whole floats."""
    smallest_largest, raw = bytes_of([ends(values).float(), values])
    width = len(raw) // len(values)
    stops = [width * count for count in accumulate(counts, initial=0)]
    bodies = [raw[start:stop].tobytes() for start, stop in pairwise(stops)]
    if not np.isfinite(smallest_largest.view(np.float32)).all():
        for part, what in zip(torch.split(to_host(values), list(counts)), whats, strict=True):
            if not part.isfinite().all():
                raise _not_finite(what)
    return bodies


def finite(x: Tensor, what: str) -> Tensor:
    """x, a tensor to encode, which must not be empty; RunError if it holds NaN or infinity."""
    if not is_finite(x):
        raise _not_finite(what)
    return x


def _not_finite(what: str) -> RunError:
    return RunError(
        f"NaN, infinity or values beyond float32 in the {what.removesuffix(',')}: lower the "
        "learning rate"
    )


class _Rows:
    """The rows x [n, D] of many devices, in groups with a range each: a row, or all of a device's.

    counts: how many rows each device has, one or more.
    """

    def __init__(self, x: Tensor, counts: Sequence[int], whats: Sequence[str], by_row: bool):
        self.x, self.counts, self.whats, self.by_row = x, counts, whats, by_row
        owners = np.repeat(np.arange(len(counts)), counts)
        self._owners = to_device(torch.from_numpy(owners), x.device)

    def most(self, of_rows: Tensor) -> Tensor:
        """The largest number of each device [M], of numbers for each row [n]."""
        zeros = of_rows.new_zeros(len(self.counts))
        return zeros.scatter_reduce_(0, self._owners, of_rows, "amax", include_self=False)

    def of_groups(self, of_devices: Tensor) -> Tensor:
        """Spread numbers for each device [M] over groups [G]."""
        return of_devices[self._owners] if self.by_row else of_devices

    def column(self, of_groups: Tensor) -> Tensor:
        """Spread numbers for each group [G] over rows [n, 1]."""
        return (of_groups if self.by_row else of_groups[self._owners]).unsqueeze(1)

    def mean_norms(self) -> Tensor:
        """The L2 norm of each group over the root of its length, in float64."""
        if self.by_row:
            parts = [self.x]
        elif len(set(self.counts)) == 1:
            parts = [self.x.reshape(len(self.counts), -1)]
        else:
            parts = [part.reshape(1, -1) for part in torch.split(self.x, list(self.counts))]
        return torch.cat(
            [
                torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) / part.shape[1] ** 0.5
                for part in parts
            ]
        )

    def bodies(
        self, fine: Tensor, scale: Tensor, ranges: Sequence[Tensor], codes: Tensor, bits: int
    ) -> list[bytes]:
        """Each device's body.

        fine: whether the numbers of each group are finite [G]. scale: of each device [M]. ranges:
        of each group [G], in float16. codes: [n, D] uint8, which may be overwritten.
        """
        lengths = [count * codes.shape[1] for count in self.counts]
        flat = codes.view(-1)
        if any(length % 8 for length in lengths):  # each device's codes begin at a whole byte
            parts = torch.split(flat, lengths)
            flat = torch.cat([F.pad(part, (0, -len(part) % 8)) for part in parts])
        sound, scales, *edges, packed = bytes_of([fine, scale, *ranges, pack_bits(flat, bits)])
        self._check(sound)
        bodies, group, start = [], 0, 0
        for device, (count, length) in enumerate(zip(self.counts, lengths, strict=True)):
            last = group + (count if self.by_row else 1)
            own = [edge[2 * group : 2 * last] for edge in edges]
            stream = packed[start : start - (-length * bits // 8)]
            pieces = (scales[4 * device : 4 * device + 4], *own, stream)
            bodies.append(b"".join(piece.data for piece in pieces))
            group, start = last, start - (-length // 8) * bits
        return bodies

    def _check(self, fine: Octets) -> None:
        """Raise RunError for the first device with a group of numbers that are not finite."""
        if not fine.all():
            counts = self.counts if self.by_row else [1] * len(self.counts)
            place = np.searchsorted(np.cumsum(counts), fine.argmin(), side="right")
            raise _not_finite(self.whats[int(place)])


def _uniform(rows: _Rows, bits: int, rounding: float | Tensor) -> list[bytes]:
    low, high = rows.x.amin(1), rows.x.amax(1)
    above, below = rows.most(high), rows.most(-low)
    scale = torch.where(above > below, above, below)
    if not rows.by_row:
        low, high = -below, above
    unit = rows.of_groups(scale)
    lo16, hi16 = _relative(low, unit, up=False), _relative(high, unit, up=True)
    lo, hi = lo16.float() * unit, hi16.float() * unit
    step = (hi - lo) / torch.full_like(lo, 2**bits - 1)
    fine = (high - low).isfinite() & step.isfinite()
    codes = torch.sub(rows.x, rows.column(lo)).mul_(rows.column(_inverse(step))).add_(rounding)
    codes = codes.clamp_(0, 2**bits - 1).to(torch.uint8)
    return rows.bodies(fine, scale, (lo16, hi16), codes, bits)


def _scaled(
    rows: _Rows, bits: int, levels: Levels, find: Callable[[Tensor], Tensor]
) -> list[bytes]:
    exact = rows.mean_norms()
    rms = exact.float()
    scale = rows.most(rms) if rows.by_row else rms
    unit = rows.of_groups(scale)
    fine = exact.isfinite() & (unit * float(reach_of(levels))).isfinite()
    rms16 = (rms / _divisor(unit)).to(torch.float16)
    codes = find(rows.x * rows.column(_inverse(rms16.float() * unit)))
    return rows.bodies(fine, scale, (rms16,), codes, bits)


def _divisor(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 1.0, scale)


def _inverse(sizes: Tensor) -> Tensor:
    return torch.where(sizes >= TINY, 1.0 / sizes, 0.0)


def _relative(values: Tensor, scale: Tensor, up: bool) -> Tensor:
    """`values` / scale in float16, rounded up (`up`) or down."""
    near = (values / _divisor(scale)).to(torch.float16)
    back = near.float() * scale
    return torch.where(back < values if up else back > values, _next(near, up), near)


def _next(near: Tensor, up: bool) -> Tensor:
    """The float16 number next above (`up`) or below each of `near`, which are finite.

    The bits of a float16, read as an integer, grow by one with each step away from zero.
    """
    bits = near.view(torch.int16)
    away = (bits >= 0) == up
    moved = torch.where(away, bits + 1, bits - 1)
    return torch.where(near == 0, 1 if up else -(2**15) + 1, moved).view(torch.float16)


def _dither(x: Tensor, counts: Sequence[int], rngs: Sequence[torch.Generator]) -> Tensor:
    """Uniform numbers in (0, 1) of 16 bits each, drawn four at a time: a third of rand's cost."""
    lengths = [count * x.shape[1] for count in counts]
    words = torch.empty(sum(-(-length // 4) for length in lengths), dtype=torch.int64)
    start = 0
    for length, rng in zip(lengths, rngs, strict=True):
        stop = start - (-length // 4)
        words[start:stop].random_(-(2**63), None, generator=rng)
        start = stop
    drawn = words.view(torch.int16)
    if any(length % 4 for length in lengths):
        padded = [4 * -(-length // 4) for length in lengths]
        parts = zip(torch.split(drawn, padded), lengths, strict=True)
        drawn = torch.cat([part[:length] for part, length in parts])
    u = to_device(drawn, x.device).to(torch.float32)
    return u.mul_(2.0**-16).add_(0.5 + 2.0**-17).view_as(x)
