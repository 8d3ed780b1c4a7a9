"""What a survey of the cuts finds: tables over a grid, checked when they are made or read."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Measure = Literal["agreement", "divergence", "accuracy"]


@dataclass(frozen=True, eq=False)
class Grid:
    """What is measured: cuts [C], tokens kept besides the prefix [K] and bits [Q], ascending.

    The last tokens are N, all of them; the last bits are 32, so cell [:, -1, -1] is uncompressed.
    With a fitted codec the other bits are the rates that it is measured at, in bits a value.
    Raises ValueError for axes that do not ascend.
    """

    cuts: tuple[int, ...]
    tokens: tuple[int, ...]
    bits: tuple[int | float, ...]

    def __post_init__(self) -> None:
        for name, axis, least in (
            ("cuts", self.cuts, 0),
            ("tokens", self.tokens, 1),
            ("bits", self.bits, 0.01),
        ):
            if not axis or list(axis) != sorted(set(axis)) or axis[0] < least:
                raise ValueError(f"{name} {list(axis)} do not ascend from {least} or more")
        if self.bits[-1] != 32:
            raise ValueError(f"bits {list(self.bits)} do not end with 32")

    def check_table(self, name: str, table: Floats, top: float = np.inf, low: float = 0) -> None:
        """Raise ValueError unless a table [C, K, Q] or [C, K] holds numbers from `low` to `top`.

        At cut 0 with fewer than all tokens it must hold NaN: no block there ranks them.
        """
        shape = (len(self.cuts), len(self.tokens), len(self.bits))
        impossible = np.zeros(table.shape, dtype=np.bool_)
        fits = table.ndim in (2, 3) and table.shape == shape[: table.ndim]
        if fits and 0 in self.cuts:
            impossible[self.cuts.index(0), :-1] = True
        fits = fits and bool((np.isnan(table) == impossible).all())
        finite = np.isfinite(table) | impossible
        if not fits or not (((table >= low) & (table <= top) & finite) | impossible).all():
            raise ValueError(f"{name} is no table {list(shape)} of numbers from {low:g} to {top:g}")


@dataclass(frozen=True, eq=False)
class SurveyResult(Grid):
    """What was measured.

    agreement [C, K, Q]: share of samples whose predicted class is that of the uncompressed model.
    divergence [C, K, Q]: mean KL divergence of the predictions from the uncompressed ones, nats.
    accuracy [C, K, Q]: on the labels. bytes_per_sample [C, K, Q]: of frames of whole batches,
    headers and labels included. All four are NaN (null on disk) at cut 0 with fewer than all
    tokens: no block there ranks them.
    importance, importance_low, importance_high: by cut from 1 on, [N + 1]: the share of a sample's
    scores that its K best tokens hold, as the mean over samples (ST-SFLora's rank-wise importance,
    arXiv 2605.26120, over the batch size), the 10th and the 90th percentile.
    mean_square, range_16: of the activations, by cut from 0 on: the mean of their squares, and
    max - min over 16 samples, as the mean over such batches (SFLAM's delta, arXiv 2504.09114).
    Raises ValueError if the tables do not fit together.
    """

    agreement: Floats
    divergence: Floats
    accuracy: Floats
    bytes_per_sample: Floats
    importance: dict[int, Floats]
    importance_low: dict[int, Floats]
    importance_high: dict[int, Floats]
    mean_square: dict[int, float]
    range_16: dict[int, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("agreement", "divergence", "accuracy", "bytes_per_sample"):
            top = 1.0 if name in ("agreement", "accuracy") else np.finfo(np.float64).max
            self.check_table(name, getattr(self, name), float(top))
        for name in ("importance", "importance_low", "importance_high"):
            _check_cuts(name, getattr(self, name), {cut for cut in self.cuts if cut})
            for cut, curve in getattr(self, name).items():
                _check_curve(f"{name} of cut {cut}", curve, self.tokens[-1])
        for name in ("mean_square", "range_16"):
            _check_cuts(name, getattr(self, name), {0, *self.cuts})

    def quality(self, measure: Measure = "agreement") -> Floats:
        """How much of the predictions survives, [C, K, Q] from 0 (also where NaN) to 1 (all).

        agreement: as measured. divergence: exp(-KL). accuracy: divided by the accuracy of the
        uncompressed model, at most 1.
        """
        if measure == "agreement":
            return np.nan_to_num(self.agreement)
        if measure == "divergence":
            return np.nan_to_num(np.exp(-self.divergence))
        whole = self.accuracy[:, -1:, -1:]
        ratio = np.divide(self.accuracy, whole, out=np.ones_like(self.accuracy), where=whole > 0)
        return np.nan_to_num(np.minimum(ratio, 1.0))


def _check_curve(name: str, curve: Floats, tokens: int) -> None:
    ends = curve.shape == (tokens + 1,) and np.allclose(curve[[0, -1]], (0, 1), atol=1e-6)
    if not ends or not (np.diff(curve) > -1e-6).all():
        raise ValueError(f"{name} does not rise from 0 to 1 over {tokens} tokens")


def _check_cuts(name: str, values: dict[int, Any], cuts: set[int]) -> None:
    if set(values) != cuts:
        raise ValueError(f"{name} has the cuts {sorted(values)}, not {sorted(cuts)}")
