"""Laplace laws of quantised coefficients, equal to the last bit on every machine.

A coefficient of scale b, quantised in steps of s, is 0 with probability p0 and k or -k with
probability (1 - p0) / 2 * (1 - r) * r^(k - 1), where r = exp(-s / b). With a dead zone (magnitudes
below 0.62 steps are rounded to 0) p0 = 1 - exp(-0.62 s / b); with a uniform dither
p0 = 1 - (1 - r) b / s, and the same ratio r.

A scale is sent as one byte, in eighths of an octave around the fitted step. Only additions,
multiplications and divisions of float64 are used, which IEEE 754 defines exactly; `exp` of a
mathematics library may differ in the last bit, and two ends of an entropy coder must not.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.uint8]

DEAD_ZONE = 0.12
FIRST = 0.5 + DEAD_ZONE
"""The smallest magnitude, in steps, that is not rounded to 0."""
SHIFT = 0.05
"""By how many steps a reconstructed magnitude is moved towards 0, to the mean of its cell."""

_EIGHTHS = np.array(
    [
        1.0,
        1.0905077326652577,
        1.189207115002721,
        1.2968395546510096,
        1.4142135623730951,
        1.5422108254079407,
        1.681792830507429,
        1.8340080864093424,
    ]
)
_MIDDLE = 128
_SQUARINGS = 10


def to_codes(values: Array, unit: float, up: bool = False) -> Codes:
    """Positive `values` as bytes: the nearest eighth of an octave of `unit`, or the next one up."""
    with np.errstate(divide="ignore"):
        eighths = 8 * np.log2(values / unit)
    rounded = np.ceil(eighths) if up else np.rint(eighths)
    codes: Codes = np.clip(rounded + _MIDDLE, 0, 255).astype(np.uint8)
    return codes


def from_codes(codes: Codes) -> Array:
    """The values of bytes of `to_codes`, in their unit: 2^((code - 128) / 8)."""
    eighths = codes.astype(np.int64) - _MIDDLE
    values: Array = np.ldexp(_EIGHTHS[eighths % 8], eighths // 8)
    return values


def exp_minus(x: Array) -> Array:
    """exp(-x) for x >= 0, by basic operations only: a short series, squared ten times."""
    z = np.minimum(x, 700.0) / -(2.0**_SQUARINGS)
    total = np.ones_like(z)
    for n in range(14, 0, -1):
        total = 1.0 + z * total / n
    for _ in range(_SQUARINGS):
        total = total * total
    return total


def symbol_laws(scales: Array, dithered: bool) -> tuple[Array, Array]:
    """p0 and r of each law; scales: b in units of the step."""
    a = 1.0 / scales
    r = exp_minus(a)
    if dithered:
        # For large a the quotient is 1 / a; for tiny a it nears 1, where p0 nears a / 2.
        p0 = np.where(a < 1e-4, a / 2, 1.0 - (1.0 - r) / a)
    else:
        p0 = 1.0 - exp_minus(FIRST * a)
    return np.clip(p0, 1e-9, 1.0 - 1e-9), np.clip(r, 1e-9, 1.0 - 1e-9)


def entropy_bits(scales: Array, dithered: bool) -> Array:
    """Bits that a symbol of each law takes on average; scales: b in units of the step."""
    p0, r = symbol_laws(scales, dithered)
    some = 1.0 - p0
    magnitude = -np.log2(1.0 - r) - r / (1.0 - r) * np.log2(r)
    return np.asarray(-p0 * np.log2(p0) - some * np.log2(some) + some * (1.0 + magnitude))


def fit_scales(
    groups: Sequence[tuple[float, Array]], step: float, dithered: bool
) -> tuple[Codes, float]:
    """The scale of each component [L] with which coding takes the fewest bits, and those bits.

    groups: of tokens of one size: the size, by which the scales are multiplied, and the tokens'
    coefficients [n, L]; one group of size 1 if all tokens share their laws. All scales within two
    octaves of the mean magnitude are tried, since the best scale for quantised coefficients is not
    that of a Laplace variable.
    """
    counts = sum(size * len(some) for size, some in groups)
    mean = sum(np.abs(some).sum(0) for _, some in groups) / counts
    middle = to_codes(mean, step).astype(np.int64)
    tried = np.clip(middle[:, None] + np.arange(-16, 17), 0, 255).astype(np.uint8)
    bits = np.zeros(tried.shape)
    for size, coefficients in groups:
        steps = np.abs(coefficients) / step
        if dithered:
            zeros, total = np.maximum(0.0, 1.0 - steps).sum(0), steps.sum(0)
        else:
            whole = np.floor(steps + (1 - FIRST))
            zeros, total = (whole == 0).sum(0).astype(np.float64), whole.sum(0)
        some = len(coefficients) - zeros
        p0, r = symbol_laws(from_codes(tried) * size, dithered)
        bits -= zeros[:, None] * np.log2(p0)
        bits -= some[:, None] * (np.log2((1 - p0) / 2) + np.log2(1 - r))
        bits -= (total - some)[:, None] * np.log2(r)
    best = bits.argmin(1)
    rows = np.arange(len(best))
    return tried[rows, best], float(bits[rows, best].sum())
