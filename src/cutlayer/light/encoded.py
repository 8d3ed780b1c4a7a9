"""Turns a program's outputs for a batch into the codec's header and body, sample by sample."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer.errors import RunError
from cutlayer.wire.codecs import klt_body, quantized_body, symbols
from cutlayer.wire.codecs.basis import Basis
from cutlayer.wire.codecs.klt_body import Cell, Quantised
from cutlayer.wire.codecs.klt_laws import LawBook
from cutlayer.wire.codecs.seam import Coded
from cutlayer.wire.headers import TensorHeader
from cutlayer.wire.kept_tokens import positions_of
from cutlayer.wire.packing import pack_bits, pack_floats, pack_ranges

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Sent:
    """The tokens of a batch that are sent: B samples of T tokens.

    kept: [B, K], the indices of the kept tokens out of `candidates`, or None for all; merged:
    whether the last token stands for the others; mask: [B, T], False at padding, or None.
    """

    B: int
    T: int
    candidates: int
    kept: NDArray[np.int64] | None
    merged: bool
    mask: NDArray[np.bool_] | None

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """The number of rows before each sample, and of all rows [B + 1]."""
        if self.mask is None:
            return np.arange(self.B + 1) * self.T
        return np.concatenate([[0], np.cumsum(self.mask.sum(1))])

    @property
    def all(self) -> slice:
        """All rows."""
        return slice(0, int(self._ends[-1]))

    def rows(self, i: int) -> slice:
        """The rows of one sample."""
        return slice(int(self._ends[i]), int(self._ends[i + 1]))

    @property
    def positions(self) -> NDArray[np.int64]:
        """The position of every row [n] in its sample."""
        places = positions_of(self.B, self.T, self.kept, self.merged)
        return places.reshape(-1) if self.mask is None else places[self.mask]

    def only(self, i: int) -> "Sent":
        """One sample; without the padding behind its last token if no tokens were selected."""
        kept = None if self.kept is None else self.kept[[i]]
        if self.mask is None:
            return replace(self, B=1, kept=kept)
        mask, T = self.mask[[i]], self.T
        if kept is None:
            T = int(np.flatnonzero(mask[0]).max()) + 1
        return replace(self, B=1, T=T, kept=kept, mask=mask[:, :T])


def check_shape(what: str, found: tuple[int, ...], due: tuple[int, ...]) -> None:
    """Raise RunError if an output of a program has another shape than expected."""
    if found != due:
        raise RunError(
            f"program: its {what} has shape {list(found)} instead of {list(due)}: run the same "
            "cutlayer on both sides"
        )


def coded_floats(
    hidden: NDArray[np.float32], sent: Sent, rows: slice, header: TensorHeader, compress: bool
) -> Coded:
    """Some rows as floats of 16 or 32 bits a value."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    if sent.mask is not None:
        flat = flat[sent.mask.reshape(-1)]
    packed = pack_floats(flat[rows], header.bits)
    return quantized_body.coded(packed, header, compress)


def coded_levels(found: Arrays, header: TensorHeader, compress: bool) -> Coded:
    """All rows of a batch as codes of a quantiser: they share a scale."""
    names = ("low", "high") if header.levels == "uniform" else ("rms",)
    ranges = pack_ranges(found["scale"][0], *(found[name] for name in names))
    packed = ranges + pack_bits(np.ascontiguousarray(found["codes"]).reshape(-1), header.bits)
    return quantized_body.coded(packed, header, compress)


class FittedCodec:
    """A device's side of codec `klt`: the inputs that its program needs of a basis, and the
    encoding of the program's outputs.

    share: how many of the bits a value that the basis was fitted for.
    """

    def __init__(self, basis: Basis, share: float = 1.0) -> None:
        if basis.head.patches_a_side:
            raise RunError(
                "the server sent a basis that transforms between patches, which a light device "
                "cannot: set method.uplink.spatial to false"
            )
        if basis.head.token_classes:
            raise RunError(
                "the server sent a basis of known tokens, which a light device cannot use: set "
                "method.uplink.known_tokens to false"
            )
        self.basis, self.share = basis, share
        self._book = LawBook(basis)
        self._step = self._book.step_at(share)
        self._coder = symbols.coder_here()

    @cached_property
    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """The program's inputs from the basis (see `wire.program_ports`)."""
        step = self._step
        first, others = klt_body.analyses(self.basis)
        live = [self._book.plan(kind, step).live for kind in (0, 1)]
        means = (self.basis.means * self.basis.head.mean_unit).astype(np.float32)
        return {
            "means": means,
            "prefix_analysis": np.ascontiguousarray(first[:, live[0]]),
            "other_analysis": np.ascontiguousarray(others[:, live[1]]),
            "step": np.array([step], np.float32),
        }

    def quantised(self, found: Arrays, sent: Sent) -> Quantised:
        """The symbols of a batch, by kind of token. Raises RunError if one is too large."""
        kinds = self._book.kinds(sent.positions)
        cells = []
        for kind, name in enumerate(("prefix_symbols", "other_symbols")):
            if name not in found:
                continue
            values = found[name].T
            plan = self._book.plan(kind, self._step)
            check_shape(name, values.shape, (len(plan.live), len(kinds[kind])))
            if values.size:
                symbols.check_reach(float(np.abs(values).max()), "activations")
            cells.append(Cell(kind, kinds[kind], plan, values))
        return Quantised(cells, None)

    def coded(self, found: Quantised, rows: slice) -> Coded:
        """Some rows as a header and a body."""
        return klt_body.coded(found, self._book, rows, self._step, 1.0, self._coder)
