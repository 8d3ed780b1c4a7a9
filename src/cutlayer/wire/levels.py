"""Levels of a quantiser that are not evenly spaced, and the nearest one to each value."""

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.wire.transfer import to_device

Levels = NDArray[np.float32] | NDArray[np.float64]

CELLS = 4096
"""How many cells the line is cut into, in which codes are looked up (see `gaussian_cells`)."""
_PIECE = 2**17


def reach_of(levels: Levels) -> np.float32:
    """The largest magnitude among levels."""
    return np.float32(np.abs(levels).max())


def nearest(z: Tensor, levels: Levels) -> Tensor:
    """The code of the level nearest to each z: uint8, in the shape of z."""
    edges = to_device(torch.from_numpy((levels[1:] + levels[:-1]) / 2), z.device)
    return torch.bucketize(z, edges, right=True).to(torch.uint8)


def nearest_gaussian(z: Tensor, bits: int) -> Tensor:
    """As `nearest` for `gaussian_levels`: a look-up ten times faster than a binary search.

    The line is cut into cells so small that each holds one boundary between levels at most; a
    cell's code is the one at its left end, plus one beyond the boundary within it.
    """
    first, edge, limit = gaussian_cells(bits, z.device)
    codes = torch.empty(z.shape, dtype=torch.uint8, device=z.device)
    flat, given = codes.view(-1), z.reshape(-1)
    # A CPU takes a piece at a time, so that intermediate results stay in its cache.
    size = _PIECE if z.device.type == "cpu" else max(1, len(flat))
    for start in range(0, len(flat), size):
        piece, out = given[start : start + size], flat[start : start + size]
        cell = torch.add(piece, limit).mul_(CELLS / (2 * limit)).clamp_(0, CELLS - 1)
        index = cell.to(torch.int32).clamp_(min=0)  # NaN (refused elsewhere) must not be an index
        torch.add(first.index_select(0, index), edge.index_select(0, index) <= piece, out=out)
    return codes


@cache
def gaussian_cells(bits: int, device: torch.device) -> tuple[Tensor, Tensor, float]:
    """For each of `CELLS` cells between -limit and limit: the code at its left end (uint8), and the
    boundary within it (float32), infinite if it has none. The third result is the limit."""
    levels = gaussian_levels(bits)
    edges = (levels[1:] + levels[:-1]) / 2
    limit = float(edges[-1]) + 0.1
    left = np.linspace(-limit, limit, CELLS, endpoint=False)
    first = np.searchsorted(edges, left)
    edge = np.append(edges, np.inf)[first].astype(np.float32)
    tables = torch.from_numpy(first.astype(np.uint8)), torch.from_numpy(edge)
    return tables[0].to(device), tables[1].to(device), limit


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
        # d mean / d edge; an inner edge moves by half of the move of each neighbouring level.
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
