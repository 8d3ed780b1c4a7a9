"""Labelled images or texts in memory, and the seeded, class-stratified ways of taking a part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from cutlayer.data.report import LoadReport
from cutlayer.data.stored_images import StoredImages
from cutlayer.passage import Passage

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples; parts of a data set share its samples and hold indices only.

    pool: images as uint8 [N, C, H, W] with C = 1 (grey) or 3 (RGB), or N images that are decoded
    when they are needed, N texts or N passages.
    labels: int64 [n], each an index into `classes`. rows: [n] the samples' places in the pool;
    None: all of the pool, in order.
    report: what was loaded from where; None for a part, and for samples that were not loaded.
    """

    pool: torch.Tensor | StoredImages | list[str] | list[Passage]
    labels: Indices
    classes: tuple[str, ...]
    rows: Indices | None = None
    report: LoadReport | None = None

    def __post_init__(self) -> None:
        held = len(self.pool) if self.rows is None else len(self.rows)
        if held != len(self.labels):
            raise ValueError(f"{held} inputs for {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> torch.Tensor | list[str] | list[Passage]:
        """The samples [n]. Those of a part are copied, or decoded, from the pool at each call.

        Raises DataError for a stored image that cannot be decoded.
        """
        if isinstance(self.pool, StoredImages):
            return self.pool.take(self._rows())
        if self.rows is None:
            return self.pool
        if isinstance(self.pool, list):
            return [self.pool[i] for i in self.rows]
        return self.pool[torch.from_numpy(self.rows)]

    def expect(self, indices: Indices) -> None:
        """Begin to decode the samples at `indices`, which will be asked for soon."""
        if isinstance(self.pool, StoredImages):
            self.pool.expect(self._rows()[indices])

    def dismiss(self) -> None:
        """Drop images of these samples that were decoded ahead and never asked for."""
        if isinstance(self.pool, StoredImages):
            self.pool.dismiss(self._rows())

    def _rows(self) -> Indices:
        return np.arange(len(self)) if self.rows is None else self.rows

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image. Raises TypeError for texts."""
        if isinstance(self.pool, list):
            raise TypeError("texts have no shape")
        channels, height, width = self.pool.shape[1:]
        return channels, height, width

    @property
    def modality(self) -> Literal["image", "text"]:
        """Whether a sample is an image or a text; a passage counts as a text."""
        return "text" if isinstance(self.pool, list) else "image"

    @property
    def has_passages(self) -> bool:
        """Whether samples are passages, which a language model learns from."""
        return isinstance(self.pool, list) and isinstance(self.pool[0], Passage)

    def subset(self, indices: Indices | Sequence[int]) -> Dataset:
        """The samples at `indices`, in that order, with the same classes; none is copied."""
        chosen = np.asarray(indices, dtype=np.int64)
        rows = chosen if self.rows is None else self.rows[chosen]
        return replace(self, labels=self.labels[chosen], rows=rows, report=None)


def joined_inputs(parts: Sequence[Dataset]) -> torch.Tensor | list[str] | list[Passage]:
    """The samples of several data sets of one kind, one after another.

    Parts of one pool are taken out of it, or decoded, in one go. Raises as `Dataset.inputs`.
    """
    first = parts[0]
    if all(part.pool is first.pool and part.rows is not None for part in parts):
        rows = np.concatenate([part.rows for part in parts if part.rows is not None])
        labels = np.concatenate([part.labels for part in parts])
        return replace(first, labels=labels, rows=rows).inputs
    found = [part.inputs for part in parts]
    if isinstance(found[0], torch.Tensor):
        return torch.cat([one for one in found if isinstance(one, torch.Tensor)])
    joined: list[Any] = [one for part in found for one in part]  # of one kind: texts or passages
    return joined


def largest_remainder(weights: npt.ArrayLike, total: int) -> Indices:
    """Whole numbers that add up to `total`, in proportion to `weights`; of equals the earlier gets
    the larger number.
    """
    weights = np.asarray(weights, dtype=np.float64)
    exact = total * weights / weights.sum() if weights.any() else np.zeros_like(weights)
    whole: Indices = np.floor(exact).astype(np.int64)
    left = total - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:left]] += 1
    return whole


def stratified(labels: Indices, size: int, rng: np.random.Generator) -> Indices:
    """Sorted indices of `size` samples, the classes in proportion.

    Every class keeps at least one sample when `size` is not below the number of classes.
    """
    present, counts = np.unique(labels, return_counts=True)
    least = 1 if size >= len(present) else 0
    quotas = least + largest_remainder(counts - least, size - least * len(present))
    return _take(labels, present, quotas, rng)


def holdout(labels: Indices, share: float, rng: np.random.Generator) -> Indices:
    """Sorted indices of `share` of every class, rounded, but never of all samples of a class."""
    present, counts = np.unique(labels, return_counts=True)
    quotas = np.minimum(np.rint(share * counts).astype(np.int64), counts - 1)
    return _take(labels, present, quotas, rng)


def _take(labels: Indices, present: Indices, quotas: Indices, rng: np.random.Generator) -> Indices:
    taken = [
        rng.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(present, quotas, strict=True)
    ]
    return np.sort(np.concatenate(taken)).astype(np.int64)
