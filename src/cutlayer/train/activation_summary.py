"""What activations are like, in a few numbers: of arrays, without torch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """Statistics of a device's first batch of a round.

    importance: [N + 1], f(K) of one sample: each sample's scores in descending order, the mean
    over samples, cumulative (ST-SFLora's rank-wise importance over B, arXiv 2605.26120); None
    where there is no block to score with. spread: the largest value of the activations less the
    smallest. mean_square: of their values.
    """

    importance: Floats | None
    spread: float
    mean_square: float


def importance_of(scores: Floats) -> Floats:
    """The importance of tokens by rank [N + 1], of scores [B, N]."""
    ranked = -np.sort(-scores, axis=1)
    return np.concatenate([[0.0], np.cumsum(ranked.mean(axis=0))])
