"""The transform between the patches of an image: a cosine transform over their grid.

Neighbouring patches are alike, the more so the deeper the cut. The discrete cosine transform (type
2, orthonormal, over rows and columns) of the grid of each component gathers what they share in few
coefficients. Coefficients of about the same frequency share their laws: with u and v counted from
0, band 0 is u = v = 0, and band k holds the others with 2^(k-1) <= max(u, v) < 2^k.

The way back is exact: the transform's entries are whole numbers of 2^-10, so that float64 adds up
whole numbers without rounding, in any order; the result is rounded to `PARTS` parts of its unit.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cutlayer.wire.codecs.laws import Array

if TYPE_CHECKING:
    from torch import Tensor

PARTS = 8
"""The way back is rounded to this fraction of the unit of what it is given."""
_BITS = 10


def count(side: int) -> int:
    """The number of bands of a grid with `side` patches a side; 1 for no grid (0)."""
    return 1 if side == 0 else 1 + (side - 1).bit_length()


@lru_cache(maxsize=16)
def bands(side: int) -> NDArray[np.int64]:
    """The band of each coefficient [side * side], row by row."""
    frequency = np.maximum(*np.indices((side, side)))
    return np.array([int(one).bit_length() for one in frequency.ravel()])


@lru_cache(maxsize=16)
def matrix(side: int) -> Array:
    """The transform of one side [frequency, place]."""
    # The mathematics library of each machine may round cosines differently in the last bit: `back`
    # rounds them to whole numbers, which no such bit changes.
    frequency, place = np.indices((side, side))
    cosines = np.cos(math.pi * (2 * place + 1) * frequency / (2 * side))
    found: Array = cosines * np.where(frequency == 0, 1.0, math.sqrt(2)) / math.sqrt(side)
    return found


def forth(rows: Tensor, side: int) -> Tensor:
    """The coefficients [n, L] of the patches of n / side^2 grids, one grid after another."""
    import torch  # code that only reads sizes needs no tensors

    transform = torch.from_numpy(matrix(side)).to(rows.dtype)
    grids = rows.reshape(-1, side, side, rows.shape[1])
    return torch.einsum("uy,vx,byxl->buvl", transform, transform, grids).reshape(rows.shape)


def back(coefficients: Array, side: int) -> Array:
    """What whole coefficients [B, side * side, L] stand for, in whole parts of 1 / PARTS.

    Exact up to the last rounding while magnitudes stay below 2^21.
    """
    whole = np.rint(matrix(side) * 2.0**_BITS)
    grid = coefficients.reshape(len(coefficients), side, -1)
    rows = (whole.T @ grid).reshape(len(coefficients) * side, side, -1)
    found: Array = np.rint((whole.T @ rows) * (PARTS / 4.0**_BITS))
    return found.reshape(coefficients.shape)
