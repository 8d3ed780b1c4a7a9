"""Turns whole numbers with known laws into bytes and back, by a range coder or zstandard.

The range coder is the package `constriction`. Symbols are coded law by law, each with one static
table: entries 0 to 2K are the values -K to K, and entry 2K + 1 says that a larger value follows in
a list of escapes. Without the package the sender lets zstandard compress the plain symbols, which
takes about 1.4 times the bytes; the frame says which of the two it holds.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cutlayer.errors import FrameError, RunError
from cutlayer.wire import entropy
from cutlayer.wire.codecs.laws import Array, exp_minus, symbol_laws

Symbols = NDArray[np.int32]
Coder = Literal["range", "zstd", "plain"]

LARGEST = 2**16 - 1
"""The largest magnitude of a symbol; a larger one means that the codec no longer fits its data."""

_TAIL = 2.0**-18
_MOST = 2047
_LEAST = 2.0**-24
_RARE = 1e-3
"""The least weight of a token's size: a size far from the fitted ones takes about ten bits."""
_DAMAGED = "the frame's coded symbols do not fit its header: have it sent again"


def coder_here() -> Coder:
    """The coder that this installation encodes with."""
    return "range" if importlib.util.find_spec("constriction") else "zstd"


@dataclass(frozen=True, eq=False)
class Run:
    """The law that some neighbouring components share.

    rows: how many components. table: probabilities of the entries 0 ... 2K + 1. K: the largest
    magnitude in the table.
    """

    rows: int
    K: int
    table: Array

    @cached_property
    def model(self) -> Any:
        """The table as the range coder's model."""
        import constriction

        return constriction.stream.model.Categorical(self.table, perfect=False)

    @cached_property
    def bits(self) -> Array:
        """The ideal code length of each entry of the table; an escape's own 32 bits included."""
        bits: Array = -np.log2(self.table / self.table.sum())
        bits[-1] += 32
        return bits


def runs_of(scales: Array, dithered: bool) -> list[Run]:
    """The runs of neighbouring components with equal laws; scales [L]: b of each, in steps."""
    if len(scales) == 0:
        return []
    starts = np.flatnonzero(np.append(True, scales[1:] != scales[:-1]))
    lengths = np.diff(np.append(starts, len(scales)))
    p0, r = symbol_laws(scales[starts], dithered)
    return [
        _run(int(rows), float(zero), float(ratio))
        for rows, zero, ratio in zip(lengths, p0, r, strict=True)
    ]


def _run(rows: int, p0: float, r: float) -> Run:
    powers = np.cumprod(np.append(1.0, np.full(_MOST, r)))
    K = max(1, int(((1.0 - p0) * powers[:_MOST] > _TAIL).sum()))
    side = (1.0 - p0) / 2 * (1.0 - r) * powers[:K]
    escape = (1.0 - p0) * powers[K]
    table = np.concatenate([side[::-1], [p0], side, [escape]])
    return Run(rows, K, np.maximum(table, _LEAST))


def centred_run(centre: int, spread: float, count: int) -> Run:
    """The law of whole numbers below `count`: Laplace's, around `centre`, with this spread."""
    r = float(exp_minus(np.array(1.0 / spread)))
    powers = np.cumprod(np.append(1.0, np.full(count - 1, r)))
    table = np.maximum(powers[np.abs(np.arange(count) - min(centre, count - 1))], _RARE)
    return Run(1, -1, table)


def encode(
    symbols: Sequence[Symbols], runs: Sequence[Run], coder: Coder
) -> tuple[Coder, int, bytes]:
    """The coder used (`plain` if zstandard gains nothing), the number of escapes, and the bytes.

    symbols: for each run an array [rows, n]. Raises RunError for a magnitude above `LARGEST`.
    """
    if coder != "range":
        flat = np.concatenate([np.ravel(part) for part in symbols] or [np.zeros(0, np.int32)])
        # 0, -1, 1, -2, ... as 0, 1, 2, 3, ...: the upper bytes of small numbers are all zero.
        folded = (flat << 1) ^ (flat >> 31)
        plain = folded.astype("<i4").view(np.uint8).reshape(-1, 4).T.tobytes()
        packed = entropy.compress(plain)
        return ("plain", 0, plain) if packed is None else ("zstd", 0, packed)
    import constriction

    encoder = constriction.stream.queue.RangeEncoder()
    escapes = []
    for part, run in zip(symbols, runs, strict=True):
        flat = np.ravel(part)
        if run.K >= 0:
            beyond = np.abs(flat) > run.K
            if beyond.any():
                escapes.append(flat[beyond])
                flat = np.where(beyond, run.K + 1, flat)
            flat = flat + np.int32(run.K)
        if len(flat):
            encoder.encode(np.ascontiguousarray(flat, np.int32), run.model)
    listed = np.concatenate(escapes) if escapes else np.zeros(0, np.int32)
    stream = encoder.get_compressed().astype("<u4").tobytes()
    return "range", len(listed), listed.astype("<i4").tobytes() + stream


class Reader:
    """Undoes `encode`, run by run, since the laws of a later run may depend on earlier symbols.

    most: the largest number of symbols allowed. Every method raises FrameError for bytes that no
    encoder wrote for these runs.
    """

    def __init__(self, body: memoryview, coder: Coder, escapes: int, most: int) -> None:
        self._escapes, self._taken = escapes, 0
        self._plain: Symbols | None = None
        if coder != "range":
            self._plain = _plain_symbols(body, coder, most)
            self._escapes = 0
            return
        try:
            import constriction
        except ModuleNotFoundError:
            raise FrameError(
                "the frame was written by a range coder, which is not installed here: "
                "pip install 'cutlayer[codec]'"
            ) from None
        if 4 * escapes > len(body) or len(body) % 4:
            raise FrameError(_DAMAGED)
        self._listed = np.frombuffer(body[: 4 * escapes], "<i4").astype(np.int32)
        words = np.frombuffer(body[4 * escapes :], "<u4").astype(np.uint32)
        self._decoder = constriction.stream.queue.RangeDecoder(words)

    def read(self, run: Run, count: int) -> Symbols:
        """The symbols of a run [rows, count]."""
        size = run.rows * count
        if self._plain is not None:
            flat = self._plain[self._taken : self._taken + size]
            self._taken += size
            low, high = (-LARGEST, LARGEST) if run.K >= 0 else (0, len(run.table) - 1)
            if len(flat) < size or (size and (flat.min() < low or flat.max() > high)):
                raise FrameError(_DAMAGED)
            return flat.reshape(run.rows, count)
        if size == 0:
            return np.zeros((run.rows, count), np.int32)
        try:
            flat = self._decoder.decode(run.model, size)
        # The coder raises these for words that no encoder wrote.
        except (AssertionError, ValueError) as error:
            raise FrameError(f"{_DAMAGED} ({error})") from None
        if run.K >= 0:
            flat -= np.int32(run.K)
            beyond = np.flatnonzero(flat == run.K + 1)
            if not len(beyond):
                return np.asarray(flat.reshape(run.rows, count))
            values = self._listed[self._taken : self._taken + len(beyond)]
            # The least negative number has no magnitude in 32 bits, hence 64.
            sizes = np.abs(values.astype(np.int64))
            if len(values) < len(beyond) or ((sizes <= run.K) | (sizes > LARGEST)).any():
                raise FrameError(_DAMAGED)
            flat[beyond] = values
            self._taken += len(beyond)
        return np.asarray(flat.reshape(run.rows, count))

    def finish(self) -> None:
        """Raise FrameError if bytes are left over."""
        if self._plain is not None:
            whole = self._taken == len(self._plain)
        else:
            whole = self._taken == self._escapes and self._decoder.maybe_exhausted()
        if not whole:
            raise FrameError(_DAMAGED)


def _plain_symbols(body: memoryview, coder: Coder, most: int) -> Symbols:
    size = entropy.declared_size(body) if coder == "zstd" else len(body)
    if size % 4 or size > 4 * most:
        raise FrameError(_DAMAGED)
    packed = entropy.decompress(body, size) if coder == "zstd" else body
    planes = np.frombuffer(packed, np.uint8).reshape(4, -1)
    folded = np.ascontiguousarray(planes.T).view("<u4").reshape(-1).astype(np.int64)
    symbols: Symbols = ((folded >> 1) ^ -(folded & 1)).astype(np.int32)
    return symbols


def ideal_bits(symbols: Sequence[Symbols], runs: Sequence[Run]) -> float:
    """The code length of the symbols under their laws, in bits."""
    total = 0.0
    for part, run in zip(symbols, runs, strict=True):
        index = np.ravel(part) + max(run.K, 0)
        if run.K >= 0:
            index = np.where(np.abs(np.ravel(part)) > run.K, 2 * run.K + 1, index)
        total += float(run.bits[index].sum())
    return total


def check_reach(largest: float, what: str) -> None:
    """Raise RunError where a symbol would be larger than `LARGEST`."""
    if largest > LARGEST:
        raise RunError(
            f"the {what} lies {largest:.0f} steps of the codec from its mean, above {LARGEST}: fit "
            "the codec again, or take a larger step of it"
        )
