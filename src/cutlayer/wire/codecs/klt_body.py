"""Makes the body and header of rows that `klt` turned into whole numbers, in numpy alone.

Devices that quantise with torch and those that run a graph both end here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutlayer.wire.codecs import symbols
from cutlayer.wire.codecs.basis import MAX_SHIFT, Basis
from cutlayer.wire.codecs.klt_laws import LawBook, Plan
from cutlayer.wire.codecs.seam import Coded
from cutlayer.wire.codecs.symbols import Coder, Run, Symbols
from cutlayer.wire.headers import KltHeader


@dataclass(frozen=True, eq=False)
class Cell:
    """n rows that share their laws. kind: 0 for prefix tokens, 1 for others; index: the numbers of
    the rows [n], rising; values: whole numbers [L, n] of the L components in use."""

    kind: int
    index: np.ndarray
    plan: Plan
    values: Symbols


@dataclass(frozen=True, eq=False)
class Quantised:
    """Rows of many devices as whole numbers. codes: the coded size of each token [n], or None."""

    cells: list[Cell]
    codes: NDArray[np.uint8] | None


def analyses(basis: Basis) -> list[NDArray[np.float32]]:
    """The analysis [D, L] for each kind of token: the inverse of the basis's vectors."""
    scale = 2.0 ** (basis.head.log2_unit - MAX_SHIFT)
    return [
        np.linalg.pinv(group.whole * scale).astype(np.float32)
        for group in (basis.prefix, basis.others)
    ]


def mean_index(basis: Basis, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The index of the basis's mean for a token at each position."""
    last = basis.head.positions
    return np.where((positions < 0) | (positions > last), last, positions)


def coded(
    found: Quantised, book: LawBook, rows: slice, step: float, gain: float, coder: Coder
) -> Coded:
    """Some consecutive rows as a header and a body; step, gain: see `KltHeader`.

    Raises RunError for a symbol that is too large.
    """
    parts, runs = _parts(found, book, rows.start, rows.stop)
    used, escapes, body = symbols.encode(parts, runs, coder)
    head = book.basis.head
    header = KltHeader(head.version, book.basis.fingerprint, step, gain, used, escapes)
    return Coded(header, body)


def _parts(
    found: Quantised, book: LawBook, start: int, stop: int
) -> tuple[list[Symbols], list[Run]]:
    """The symbols of the rows from start to stop, and their runs, in the order of coding."""
    parts: list[Symbols] = []
    runs: list[Run] = []
    if found.codes is not None:
        runs += book.size_runs
        for number in (0, 1):
            index = np.concatenate(
                [cell.index for cell in found.cells if cell.kind == number]
                or [np.zeros(0, np.int64)]
            )
            index = np.sort(index[(index >= start) & (index < stop)])
            parts.append(found.codes[index].astype(np.int32)[None])
    for cell in found.cells:
        low, high = np.searchsorted(cell.index, (start, stop))
        row = 0
        for run in cell.plan.runs:
            parts.append(cell.values[row : row + run.rows, low:high])
            runs.append(run)
            row += run.rows
    return parts, runs
