"""The `klt` codec: a fitted transform of the channels, one step size, and an entropy coder.

A row x of a token at position p becomes whole numbers q, a component each:

    y = analysis (x / size - mean[p]),   q = sign(y) floor(|y| / step + 0.5 - 0.12)

and comes back as size (mean[p] + sum of vector_i (q_i - 0.05 sign(q_i)) step). `size` is 1, or the
token's RMS, or the batch's. With a dither q = floor(y / step + u), u uniform in [0, 1), and nothing
is moved towards 0, so that what comes back is right on average.

Reconstruction multiplies whole numbers: 20 q - sign(q) is below 2^21, a vector's entries below
2^19, and up to 2^12 components are added, so that every sum is exact in float64. Both ends
therefore hold the same bits, whatever the machine, the batch or the order of the sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import msgspec
import numpy as np
import torch
from torch import Tensor

from cutlayer.errors import FrameError
from cutlayer.wire import quantize
from cutlayer.wire.codecs import laws, symbols
from cutlayer.wire.codecs.basis import MAX_SHIFT, Basis, Components
from cutlayer.wire.codecs.klt_fit import KltSettings, fit_basis
from cutlayer.wire.codecs.seam import Coded, Rows
from cutlayer.wire.codecs.symbols import Coder, Run, Symbols
from cutlayer.wire.codecs.token_scale import scale_codes, scales_of
from cutlayer.wire.headers import KltHeader

_PARTS = round(1 / laws.SHIFT)
"""Reconstructed values are whole multiples of this part of a step."""


@dataclass(frozen=True, eq=False)
class _Plan:
    """One kind of tokens at one step size. live: indices of the components in use."""

    live: np.ndarray
    runs: list[Run]
    bits: float


@dataclass(frozen=True, eq=False)
class _Quantised:
    """Rows of many devices as whole numbers. kinds: for prefix tokens and others, the rows' indices
    and their symbols [L, n]; codes: scales of tokens [n], or None."""

    kinds: list[tuple[np.ndarray, Symbols]]
    codes: np.ndarray | None


@dataclass(frozen=True, eq=False)
class KltCodec:
    """A codec with a fitted basis.

    settings, metric: what `fit` fits to. step: the step size to encode at, not below the basis's;
    None: that one. coder: what to encode with; any can be decoded.
    """

    basis: Basis
    settings: KltSettings = KltSettings()
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
        """Means belong to positions, and prefix tokens have components of their own."""
        return True

    def fit(self, samples: Sequence[Rows]) -> "KltCodec":
        """The codec fitted to other samples, one version on."""
        version = self.basis.head.version + 1
        basis = fit_basis(samples, self.settings, version, self.metric)
        return KltCodec(basis, self.settings, self.metric, coder=self.coder)

    def side_information(self) -> bytes:
        """The basis as a frame; `basis.read_basis` reads it."""
        return self.basis.frame

    def encode(
        self, batch: Sequence[Rows], rngs: Sequence[torch.Generator] | None = None
    ) -> list[Coded]:
        """See `Codec.encode`; generators are needed by an unbiased basis only."""
        gain = self._gain(batch)
        found = self._quantise(batch, gain, rngs)
        coded, start = [], 0
        for rows in batch:
            stop = start + len(rows.values)
            parts, runs = self._parts(found, start, stop)
            coder, escapes, body = symbols.encode(parts, runs, self.coder)
            head = self.basis.head
            header = KltHeader(
                head.version, self.basis.fingerprint, self._step, gain, coder, escapes
            )
            coded.append(Coded(header, body))
            start = stop
        return coded

    def reconstruct(
        self, batch: Sequence[Rows], rngs: Sequence[torch.Generator] | None = None
    ) -> list[Tensor]:
        """What the other side will decode, to the last bit, without the bytes."""
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
                f"the frame's tensor has {width} channels, the basis {head.width}: fit the basis to "
                "this cut"
            )
        # A bound on a float lets NaN pass.
        if not (np.isfinite(header.step) and np.isfinite(header.gain)):
            raise FrameError("the frame's step size is not a number: have it sent again")
        kinds = self._kinds(positions)
        plans = self._plans(header.step)
        runs, counts = [], []
        if head.scaled:
            runs += self._scale_runs
            counts += [len(kind) for kind in kinds]
        for plan, kind in zip(plans, kinds, strict=True):
            runs += plan.runs
            counts += [len(kind)] * len(plan.runs)
        found = symbols.decode(body, runs, counts, header.coder, header.escapes)
        codes = None
        if head.scaled:
            codes = np.zeros(len(positions), np.uint8)
            for kind in kinds:
                codes[kind] = found.pop(0)[0]
        groups = []
        for plan, kind in zip(plans, kinds, strict=True):
            parts = [found.pop(0) for _ in plan.runs]
            empty = np.zeros((0, len(kind)), np.int32)
            groups.append((kind, np.concatenate(parts) if parts else empty))
        rows = self._rebuild(_Quantised(groups, codes), positions, header.step, header.gain)
        return quantize.sound(rows) if len(rows) else rows

    def expected_bytes(self, positions: Tensor, width: int) -> float:
        """The mean length of a body under the fitted laws, at this codec's step."""
        kinds = self._kinds(positions)
        bits = sum(
            plan.bits * len(kind) for plan, kind in zip(self._plans(self._step), kinds, strict=True)
        )
        if self.basis.head.scaled:
            for run, kind in zip(self._scale_runs, kinds, strict=True):
                chances = run.table / run.table.sum()
                bits += len(kind) * float(-(chances * np.log2(chances)).sum())
        return bits / 8

    @property
    def _step(self) -> float:
        return self.basis.head.step if self.step is None else self.step

    @cached_property
    def _scale_runs(self) -> list[Run]:
        head = self.basis.head
        return [
            symbols.centred_run(centre, spread)
            for centre, spread in zip(head.scale_centres, head.scale_spreads, strict=True)
        ]

    @cached_property
    def _analyses(self) -> list[Tensor]:
        """[D, L] for each kind of tokens: the inverse of the vectors that travelled."""
        scale = 2.0 ** (self.basis.head.log2_unit - MAX_SHIFT)
        return [
            torch.from_numpy(np.linalg.pinv(group.whole * scale).astype(np.float32))
            for group in (self.basis.prefix, self.basis.others)
        ]

    @cached_property
    def _means(self) -> np.ndarray:
        return self.basis.means * self.basis.head.mean_unit

    def _plans(self, step: float) -> list[_Plan]:
        return [self._plan(0, step), self._plan(1, step)]

    @cached_property
    def _plan(self):  # type: ignore[no-untyped-def]
        # A device at each of a few step sizes; a peer that makes up more only makes us work.
        return lru_cache(maxsize=8)(self._make_plan)

    def _make_plan(self, kind: int, step: float) -> _Plan:
        group: Components = (self.basis.prefix, self.basis.others)[kind]
        head = self.basis.head
        ratio = step / head.step
        live = np.arange(group.count)
        if not head.dithered:
            live = np.flatnonzero(group.reach_steps >= laws.FIRST * ratio)
        scales = group.scale_steps[live] / ratio
        # The laws say how the rate changes with the step; what it was at one was measured.
        bits = float(laws.entropy_bits(scales, head.dithered).sum())
        fitted = float(laws.entropy_bits(group.scale_steps, head.dithered).sum())
        bits *= head.token_bits[kind] / fitted if fitted else 0.0
        return _Plan(live, symbols.runs_of(scales, head.dithered), bits)

    def _kinds(self, positions: Tensor) -> list[np.ndarray]:
        """Indices of the prefix tokens, and of the others."""
        places = positions.numpy()
        prefix = (places >= 0) & (places < self.basis.head.prefix)
        return [np.flatnonzero(prefix), np.flatnonzero(~prefix)]

    def _mean_index(self, positions: Tensor) -> np.ndarray:
        places, last = positions.numpy(), self.basis.head.positions
        return np.where((places < 0) | (places > last), last, places)

    def _gain(self, batch: Sequence[Rows]) -> float:
        if not self.basis.head.per_batch:
            return 1.0
        values = sum(rows.values.numel() for rows in batch)
        energy = sum(float(rows.values.double().square().sum()) for rows in batch)
        return float(np.clip((energy / max(1, values)) ** 0.5, 1e-30, 1e30)) if energy else 1.0

    def _quantise(
        self, batch: Sequence[Rows], gain: float, rngs: Sequence[torch.Generator] | None
    ) -> _Quantised:
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
        codes = None
        if self.basis.head.scaled:
            codes = scale_codes(rows)
            rows = rows / torch.from_numpy(scales_of(codes).astype(np.float32))[:, None]
        if gain != 1.0:
            rows = rows / gain
        rows = rows - torch.from_numpy(self._means.astype(np.float32))[self._mean_index(positions)]
        what = batch[0].what if batch else ""
        noise = self._noise(batch, rngs)
        kinds = []
        for number, kind in enumerate(self._kinds(positions)):
            live = self._plan(number, self._step).live
            steps = rows[kind] @ self._analyses[number][:, live] / self._step
            if steps.numel():
                symbols.check_reach(float(steps.abs().max()), what)
            if noise is None:
                steps = steps.sign() * (steps.abs() + (1 - laws.FIRST)).floor_()
            else:
                steps = (steps + noise[kind][:, live]).floor_()
            kinds.append((kind, steps.to(torch.int32).T.contiguous().numpy()))
        return _Quantised(kinds, codes)

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

    def _parts(self, found: _Quantised, start: int, stop: int) -> tuple[list[Symbols], list[Run]]:
        """The symbols of the rows from start to stop, run by run, as they are coded."""
        parts: list[Symbols] = []
        runs: list[Run] = []
        edges = [np.searchsorted(kind, (start, stop)) for kind, _ in found.kinds]
        if found.codes is not None:
            runs += self._scale_runs
            for (kind, _), (low, high) in zip(found.kinds, edges, strict=True):
                parts.append(found.codes[kind[low:high]].astype(np.int32)[None])
        for (_, values), (low, high), plan in zip(
            found.kinds, edges, self._plans(self._step), strict=True
        ):
            row = 0
            for run in plan.runs:
                parts.append(values[row : row + run.rows, low:high])
                runs.append(run)
                row += run.rows
        return parts, runs

    def _rebuild(self, found: _Quantised, positions: Tensor, step: float, gain: float) -> Tensor:
        """The rows [n, D] of whole numbers, all in float64 and, up to the mean, exact."""
        head = self.basis.head
        unit = step * 2.0 ** (head.log2_unit - MAX_SHIFT) / _PARTS
        rows = np.empty((len(positions), head.width))
        groups = (self.basis.prefix, self.basis.others)
        for (kind, values), plan, group in zip(found.kinds, self._plans(step), groups, strict=True):
            whole = values.astype(np.float64)
            multiples = _PARTS * whole
            if not head.dithered:
                multiples -= np.sign(whole)
            rows[kind] = multiples.T @ group.whole[plan.live]
        rows *= unit
        rows += self._means[self._mean_index(positions)]
        if found.codes is not None:
            rows *= scales_of(found.codes)[:, None]
        if gain != 1.0:
            rows *= gain
        with np.errstate(over="ignore"):
            return torch.from_numpy(rows.astype(np.float32))
