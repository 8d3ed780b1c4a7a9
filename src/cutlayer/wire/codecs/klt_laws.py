"""Which rows of the `klt` codec share their laws, and what those laws are at a step size.

There are laws for each kind of token (0: of the prefix, 1: all others). In a gradient there are
also laws for each size of token: a token twice as large has components twice as large, and is coded
as if at half the step. Under a spatial basis coefficients stand in the places of the patches, and
kind 1 + k are those of band k.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from cutlayer.wire.codecs import laws, spatial, symbols
from cutlayer.wire.codecs.basis import Basis, Components
from cutlayer.wire.codecs.symbols import Run
from cutlayer.wire.codecs.token_scale import sizes_of

Index = NDArray[np.int64]

_MOST_OCTAVES, _HALVINGS = 16.0, 16
"""How much larger a step is looked for than the basis's, and how closely."""


@dataclass(frozen=True, eq=False)
class Plan:
    """One kind of tokens at one step size.

    live: indices of the components in use. runs: their laws. bits: of a token on average.
    """

    live: Index
    runs: list[Run]
    bits: float


@dataclass(frozen=True, eq=False)
class LawBook:
    """The laws of a basis, at any step size."""

    basis: Basis

    @property
    def sized(self) -> bool:
        """Whether the size of each token is sent."""
        return self.basis.head.scaled or self.basis.head.per_batch

    @cached_property
    def size_runs(self) -> list[Run]:
        """The laws of sizes, of either kind of token."""
        head = self.basis.head
        count = 32 if head.per_batch else 256
        return [
            symbols.centred_run(centre, spread, count)
            for centre, spread in zip(head.size_centres, head.size_spreads, strict=True)
        ]

    def kinds(self, positions: Index) -> list[Index]:
        """Indices of the rows of each kind; positions: see `seam.Rows`.

        Raises ValueError where a spatial basis is not given all patches of each sample.
        """
        head = self.basis.head
        prefix = (positions >= 0) & (positions < head.prefix)
        others = np.flatnonzero(~prefix)
        side = head.patches_a_side
        if not side:
            return [np.flatnonzero(prefix), others]
        patches = side * side
        whole = np.arange(head.prefix, head.prefix + patches)
        if len(others) % patches or (positions[others].reshape(-1, patches) != whole).any():
            raise ValueError(
                f"the basis transforms between all {patches} patches of a sample, of which some "
                "are missing: send all tokens, or set method.uplink.spatial to false"
            )
        band, grids = spatial.bands(side), others.reshape(-1, patches)
        numbers = range(spatial.count(side))
        return [np.flatnonzero(prefix), *(grids[:, band == k].ravel() for k in numbers)]

    def group(self, kind: int) -> Components:
        """The components of a kind of rows."""
        return self.basis.others if kind else self.basis.prefix

    def alike(
        self, kinds: Sequence[Index], codes: NDArray[np.uint8] | None, step: float
    ) -> Iterator[tuple[int, Index, Plan]]:
        """Groups of rows that share their laws: the kind, the indices of the rows, and the laws.

        codes: the coded size of each token, or None.
        """
        for number, kind in enumerate(kinds):
            if codes is None or not self.basis.head.per_batch:
                yield number, kind, self.plan(number, step)
                continue
            for code in np.unique(codes[kind]):
                size = float(sizes_of(np.array([code], np.uint8), octaves=True)[0])
                yield number, kind[codes[kind] == code], self.plan(number, step / size)

    def expected_bits(self, positions: Index, step: float) -> float:
        """The average bits of rows at these positions, all together."""
        kinds = self.kinds(positions)
        bits = sum(self.plan(number, step).bits * len(kind) for number, kind in enumerate(kinds))
        if self.sized:
            for run, kind in zip(self.size_runs, kinds, strict=True):
                chances = run.table / run.table.sum()
                bits += len(kind) * float(-(chances * np.log2(chances)).sum())
        return float(bits)

    def step_at(self, share: float) -> float:
        """The step size that takes this share of the bits that the basis was fitted for.

        A share of 1 or more gives the basis's own step, the finest that was fitted.
        """
        head = self.basis.head
        if share >= 1:
            return head.step
        # A sample with as many tokens as there are means, and at least one after the prefix.
        positions = np.arange(max(head.positions, head.prefix + 1))
        whole = self.expected_bits(positions, head.step)
        low, high = 0.0, _MOST_OCTAVES
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            bits = self.expected_bits(positions, head.step * 2**middle)
            low, high = (middle, high) if bits > share * whole else (low, middle)
        return head.step * 2**high

    @cached_property
    def plan(self) -> Callable[[int, float], Plan]:
        """The plan of a kind of token at a step size; the last few are kept."""
        # There are few step sizes and sizes of tokens; a peer that invents more costs only time.
        return lru_cache(maxsize=64)(self._make_plan)

    def _make_plan(self, kind: int, step: float) -> Plan:
        group, band = self.group(kind), max(0, kind - 1)
        head = self.basis.head
        ratio = step / head.step
        live = np.arange(group.count)
        if not head.dithered:
            live = np.flatnonzero(group.reach_steps[band] >= laws.FIRST * ratio)
        # Neighbours with equal laws are coded in one run; in a band, the order may be another.
        live = live[np.argsort(-group.scales[band][live].astype(int), kind="stable")]
        scales = group.scale_steps[band][live] / ratio
        # The rate at the fitted step was measured; the laws say how it changes with the step.
        bits = float(laws.entropy_bits(scales, head.dithered).sum())
        fitted = self._fitted_bits(kind)
        bits *= head.token_bits[min(kind, 1)] / fitted if fitted else 0.0
        return Plan(live, symbols.runs_of(scales, head.dithered), bits)

    def _fitted_bits(self, kind: int) -> float:
        """The bits of a row of the kind at the fitted step by the laws alone, over all bands."""
        group = self.group(kind)
        bits = laws.entropy_bits(group.scale_steps, self.basis.head.dithered).sum(1)
        if len(bits) == 1:
            return float(bits[0])
        shares = np.bincount(spatial.bands(self.basis.head.patches_a_side))
        return float(bits @ shares / shares.sum())
