"""A few statistics that describe activations, from arrays, without torch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """Statistics of a device's first batch of a round.

    importance: [N + 1], f(K) of one sample: the scores of each sample in descending order, averaged
    over samples and summed up to K (ST-SFLora's rank-wise importance over B, arXiv 2605.26120);
    None if there is no block to score with. spread: the largest value of the activations minus the
    smallest. mean_square: the mean of their squares.
    """

    importance: Floats | None
    spread: float
    mean_square: float


def importance_of(scores: Floats) -> Floats:
    """The importance of tokens by rank [N + 1], of scores [B, N]."""
    ranked = -np.sort(-scores, axis=1)
    return np.concatenate([[0.0], np.cumsum(ranked.mean(axis=0))])
