"""The `klt` codec: a fitted transform of the channels, one step size, and an entropy coder.

A row x of a token at position p becomes whole numbers q, one for each component:

    y = analysis (x / size - mean[p]),   q = sign(y) floor(|y| / step + 0.5 - 0.12)

and is decoded as size (mean[p] + sum of vector_i (q_i - 0.05 sign(q_i)) step). `size` is 1, the RMS
of the token or the RMS of the batch. With a dither, q = floor(y / step + u), u uniform in [0, 1),
and nothing is moved towards 0, so that decoded values are right on average.

Reconstruction multiplies whole numbers: 20 q - sign(q) is below 2^21, a vector's entries below
2^19, and up to 2^12 components are added, so that every sum is exact in float64. Both ends
therefore hold the same bits, whatever the machine, the batch or the order of the sum.

Under a spatial basis y is transformed between the patches too (see `spatial`) before it is rounded,
and back, in whole numbers, before the vectors are added up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import msgspec
import numpy as np
import torch
from torch import Tensor

from cutlayer.errors import FrameError, RunError
from cutlayer.wire import dequantize, quantize
from cutlayer.wire.codecs import klt_body, laws, spatial, symbols
from cutlayer.wire.codecs.basis import MAX_SHIFT, Basis
from cutlayer.wire.codecs.klt_body import Cell, Quantised
from cutlayer.wire.codecs.klt_fit import KltSettings, fit_basis
from cutlayer.wire.codecs.klt_laws import LawBook
from cutlayer.wire.codecs.laws import Array
from cutlayer.wire.codecs.seam import Coded, Rows
from cutlayer.wire.codecs.symbols import Coder
from cutlayer.wire.codecs.token_scale import size_codes, sizes_of
from cutlayer.wire.headers import KltHeader
from cutlayer.wire.transfer import rows_on_cpu

_PARTS = round(1 / laws.SHIFT)
"""Reconstructed values are whole multiples of this fraction of a step."""
_EXACT = 2.0**53
"""Whole numbers below this are exact in float64."""


@dataclass(frozen=True, eq=False)
class KltCodec:
    """A codec with a fitted basis.

    settings, metric: what `fit` fits with. step: the step size to encode at, not below the basis's;
    None: the basis's. coder: the entropy coder to encode with; frames of any coder are decoded.
    """

    basis: Basis
    settings: KltSettings = KltSettings()  # noqa: RUF009 - frozen
    metric: Tensor | None = None
    step: float | None = None
    coder: Coder = field(default_factory=symbols.coder_here)

    def __post_init__(self) -> None:
        if self.step is not None and not self.basis.head.step <= self.step < 1e30:
            raise ValueError(
                f"step {self.step} is finer than the {self.basis.head.step} that the basis was "
                "fitted for: fit it again"
            )

    @property
    def positional(self) -> bool:
        """True: means depend on the position, and prefix tokens have components of their own."""
        return True

    @property
    def token_classes(self) -> int:
        """Those of the basis."""
        return self.basis.head.token_classes

    def fit(self, samples: Sequence[Rows]) -> "KltCodec":
        """The codec fitted anew to these samples, with the next version number."""
        version = self.basis.head.version + 1
        basis = fit_basis(samples, self.settings, version, self.metric)
        return KltCodec(basis, self.settings, self.metric, coder=self.coder)

    def side_information(self) -> bytes:
        """The basis as a frame; `basis.read_basis` reads it."""
        return self.basis.frame

    def coarser(self, share: float) -> "KltCodec":
        """The same basis at the step size that takes this share of the bits it was fitted for.

        A share of 1 or more gives the basis's own step, the finest that was fitted.
        """
        if share >= 1:
            return self
        return replace(self, step=self._book.step_at(share))

    def encode(
        self, batch: Sequence[Rows], rngs: Sequence[torch.Generator] | None = None
    ) -> list[Coded]:
        """See `Codec.encode`; only an unbiased basis needs generators.

        A device's rows are encoded as they would be alone, to the last bit, except for the gain.
        """
        batch = rows_on_cpu(batch)
        gain = self._gain(batch)
        coded = []
        for place, rows in enumerate(batch):
            found = self._quantise([rows], gain, rngs and [rngs[place]])
            all_rows = slice(0, len(rows.values))
            coded.append(klt_body.coded(found, self._book, all_rows, self._step, gain, self.coder))
        return coded

    def reconstruct(
        self, batch: Sequence[Rows], rngs: Sequence[torch.Generator] | None = None
    ) -> list[Tensor]:
        """What the other side will decode, to the last bit, without encoding bytes."""
        batch = rows_on_cpu(batch)
        gain = self._gain(batch)
        found = self._quantise(batch, gain, rngs)
        positions = torch.cat([rows.positions for rows in batch])
        rows = self._rebuild(found, positions, self._step, gain)
        return list(torch.split(rows, [len(one.values) for one in batch]))

    def decode(
        self, header: msgspec.Struct, body: memoryview, positions: Tensor, width: int
    ) -> Tensor:
        """See `Codec.decode`; refuses a frame of another basis."""
        assert isinstance(header, KltHeader)
        head = self.basis.head
        if (header.version, header.fingerprint) != (head.version, self.basis.fingerprint):
            raise FrameError(
                f"the frame was encoded with version {header.version} of the basis where version "
                f"{head.version} is in use: send the basis again"
            )
        if width != head.width:
            raise FrameError(
                f"the frame's tensor has {width} channels, the basis {head.width}: fit the "
                "basis to this cut"
            )
        # Written so that NaN, which passes a header's bounds, is refused too.
        if not (header.step >= head.step and header.gain > 0):
            raise FrameError(
                f"the frame has step size {header.step} and gain {header.gain}; the basis was "
                f"fitted for steps from {head.step}: send the basis again"
            )
        try:
            kinds = self._book.kinds(positions.numpy())
        except ValueError as error:
            raise FrameError(f"the frame does not suit its basis: {error}") from None
        reader = symbols.Reader(
            body, header.coder, header.escapes, len(positions) * (head.width + 1)
        )
        codes = None
        if self._book.sized:
            codes = np.zeros(len(positions), np.uint8)
            for index, run in zip(kinds, self._book.size_runs, strict=True):
                codes[index] = reader.read(run, len(index))[0]
        cells = []
        for kind, index, plan in self._book.alike(kinds, codes, header.step):
            parts = [reader.read(run, len(index)) for run in plan.runs]
            empty = np.zeros((0, len(index)), np.int32)
            cells.append(Cell(kind, index, plan, np.concatenate(parts) if parts else empty))
        reader.finish()
        try:
            rows = self._rebuild(Quantised(cells, codes), positions, header.step, header.gain)
        except RunError as error:
            raise FrameError(f"the frame does not suit its basis: {error}") from None
        return dequantize.sound(rows) if len(rows) else rows

    def expected_bytes(self, positions: Tensor, width: int) -> float:
        """The mean length of a body under the fitted laws, at this codec's step."""
        return self._book.expected_bits(positions.numpy(), self._step) / 8

    @property
    def _step(self) -> float:
        return self.basis.head.step if self.step is None else self.step

    @property
    def _side(self) -> int:
        return self.basis.head.patches_a_side

    @cached_property
    def _book(self) -> LawBook:
        return LawBook(self.basis)

    @cached_property
    def _analyses(self) -> list[Tensor]:
        return [torch.from_numpy(one) for one in klt_body.analyses(self.basis)]

    def _means_at(self, positions: Tensor) -> Array:
        """The mean of each token [n, D]: only these become floats, since classes are many."""
        index = klt_body.mean_index(self.basis, positions.numpy())
        return self.basis.means[index].astype(np.float64) * self.basis.head.mean_unit

    def _gain(self, batch: Sequence[Rows]) -> float:
        if not self.basis.head.per_batch:
            return 1.0
        values = sum(rows.values.numel() for rows in batch)
        energy = sum(float(rows.values.double().square().sum()) for rows in batch)
        return min(max((energy / values) ** 0.5, 1e-30), 1e30) if energy else 1.0

    def _quantise(
        self, batch: Sequence[Rows], gain: float, rngs: Sequence[torch.Generator] | None
    ) -> Quantised:
        for one in batch:
            if one.values.shape[1] != self.basis.head.width:
                raise ValueError(
                    f"the {one.what} has {one.values.shape[1]} channels, the basis "
                    f"{self.basis.head.width}: fit the basis to this cut"
                )
            if one.values.numel():
                quantize.finite(one.values, one.what)
        rows = torch.cat([one.values for one in batch])
        positions = torch.cat([one.positions for one in batch])
        if gain != 1.0:
            rows = rows / gain
        codes = None
        if self._book.sized:
            codes = size_codes(rows, self.basis.head.per_batch)
        if codes is not None and self.basis.head.scaled:
            rows = (
                rows / torch.from_numpy(sizes_of(codes, octaves=False).astype(np.float32))[:, None]
            )
        rows = rows - torch.from_numpy(self._means_at(positions).astype(np.float32))
        what = batch[0].what if batch else ""
        noise = self._noise(batch, rngs)
        kinds = self._book.kinds(positions.numpy())
        components = self._spatial(rows, kinds) if self._side else None
        cells = []
        for number, index, plan in self._book.alike(kinds, codes, self._step):
            if components is not None and number:
                steps = components[index][:, plan.live] / self._step
            else:
                steps = rows[index] @ self._analyses[number][:, plan.live] / self._step
            if steps.numel():
                symbols.check_reach(float(steps.abs().max()), what)
            if noise is None:
                steps = steps.sign() * (steps.abs() + (1 - laws.FIRST)).floor_()
            else:
                steps = (steps + noise[index][:, plan.live]).floor_()
            cells.append(Cell(number, index, plan, steps.to(torch.int32).T.contiguous().numpy()))
        return Quantised(cells, codes)

    def _spatial(self, rows: Tensor, kinds: Sequence[np.ndarray]) -> Tensor:
        """The coefficients [n, L] of centred rows, in the places of the patches; others are 0."""
        others = np.sort(np.concatenate(kinds[1:]))
        found = rows.new_zeros(len(rows), self.basis.others.count)
        found[others] = spatial.forth(rows[others] @ self._analyses[1], self._side)
        return found

    def _noise(
        self, batch: Sequence[Rows], rngs: Sequence[torch.Generator] | None
    ) -> Tensor | None:
        """A uniform number for every component [n, D], of an unbiased basis."""
        if not self.basis.head.dithered:
            return None
        if rngs is None:
            raise ValueError("unbiased rounding needs generators: pass rngs")
        return torch.cat(
            [
                torch.rand(one.values.shape, generator=rng)
                for one, rng in zip(batch, rngs, strict=True)
            ]
        )

    def _rebuild(self, found: Quantised, positions: Tensor, step: float, gain: float) -> Tensor:
        """The rows [n, D] of whole numbers, in float64; exact before the mean is added."""
        head = self.basis.head
        unit = step * 2.0 ** (head.log2_unit - MAX_SHIFT) / _PARTS
        rows = np.zeros((len(positions), head.width))
        others = np.zeros((len(positions), self.basis.others.count)) if self._side else None
        for cell in found.cells:
            whole = cell.values.astype(np.float64)
            multiples = _PARTS * whole
            if not head.dithered:
                multiples -= np.sign(whole)
            if others is not None and cell.kind:
                others[np.ix_(cell.index, cell.plan.live)] = multiples.T
            else:
                rows[cell.index] = multiples.T @ self._book.group(cell.kind).whole[cell.plan.live]
        rows *= unit
        if others is not None:
            index = np.sort(np.concatenate([cell.index for cell in found.cells if cell.kind]))
            rows[index] = self._patches(others[index]) * (unit / spatial.PARTS)
        rows += self._means_at(positions)
        if found.codes is not None and head.scaled:
            rows *= sizes_of(found.codes, octaves=False)[:, None]
        if gain != 1.0:
            rows *= gain
        with np.errstate(over="ignore"):
            return torch.from_numpy(rows.astype(np.float32))

    def _patches(self, coefficients: Array) -> Array:
        """Rows [n, D] of whole coefficients [n, L], in parts of the unit of the vectors."""
        group = self.basis.others
        grids = coefficients.reshape(-1, self._side**2, group.count)
        parts = spatial.back(grids, self._side).reshape(coefficients.shape)
        if float(np.abs(parts).max(initial=0.0)) * group.largest_sum >= _EXACT:
            raise RunError(
                "coefficients between patches are too large to be added up exactly: fit the "
                "codec again, or take a larger step of it"
            )
        rows: Array = parts @ group.whole
        return rows
