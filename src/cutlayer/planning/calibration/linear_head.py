"""A classification head fitted in closed form, so that an untrained model's predictions mean
something."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PENALTIES = np.logspace(-6, 1, 22)
"""Ridge penalties tried, in units of the largest squared singular value."""

SHARPNESS = np.logspace(-0.5, 2.5, 61)
"""Factors tried to make logits of the regression's outputs, which lie near 0 and 1."""


def fit_head(features: Floats, labels: NDArray[np.int64], classes: int) -> tuple[Floats, Floats]:
    """weight [C, F] and bias [C] of logits, from features [n, F] and labels [n].

    Ridge regression on one-hot targets. The penalty is the one with the least squared
    leave-one-out error, which for a ridge needs no second fit: residual / (1 - leverage). The
    logits are the outputs times the factor with the least leave-one-out cross-entropy.
    """
    n = len(labels)
    targets = np.eye(classes)[labels]
    mean_x, mean_y = features.mean(axis=0), targets.mean(axis=0)
    U, s, Vt = np.linalg.svd(features - mean_x, full_matrices=False)
    aligned = U.T @ (targets - mean_y)
    scale = max(s.max() ** 2, np.finfo(np.float64).tiny)

    left_out = []
    for penalty in scale * PENALTIES:
        kept = s**2 / (s**2 + penalty)
        leverage = np.minimum(1 / n + (U**2 * kept).sum(axis=1), 1 - 1e-9)
        residual = targets - mean_y - U @ (kept[:, None] * aligned)
        left_out.append(targets - residual / (1 - leverage)[:, None])
    best = int(np.argmin([((targets - outputs) ** 2).sum() for outputs in left_out]))

    factor = min(SHARPNESS, key=lambda f: _cross_entropy(f * left_out[best], labels))
    shrunk = s / (s**2 + scale * PENALTIES[best])
    weight = factor * (Vt.T @ (shrunk[:, None] * aligned)).T
    return weight, factor * mean_y - weight @ mean_x


def _cross_entropy(logits: Floats, labels: NDArray[np.int64]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels]
    return float((np.log(np.exp(shifted).sum(axis=1)) - chosen).mean())
