"""Averages of adapters, each weighted by the samples that its device trained on.

How many samples count for a device is decided before: `_weight` in round.py.
"""

from collections.abc import Sequence

import torch

from cutlayer.model.lora import Adapter
from cutlayer.train.compute import float64


def average_by_samples(adapters: Sequence[Adapter], samples: Sequence[int]) -> Adapter:
    """FedAvg (arXiv 1602.05629): each device's adapter weighs as many samples as it trained on."""
    return weighted_average(adapters, [float(count) for count in samples])


def weighted_average(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """sum_n rho_n w_n with rho_n = weight_n / sum of weights.

    Each tensor is averaged over the adapters that hold it, so that adapters of different cuts
    join into one. Sums run in float64 in the given order.
    """
    names = dict.fromkeys(name for adapter in adapters for name in adapter)
    return {name: _average(name, adapters, weights) for name in names}


def _average(name: str, adapters: Sequence[Adapter], weights: Sequence[float]) -> torch.Tensor:
    holders = [(a[name], w) for a, w in zip(adapters, weights, strict=True) if name in a]
    total = sum(weight for _, weight in holders)
    first = holders[0][0]
    mean = torch.zeros_like(float64(first))
    for tensor, weight in holders:
        mean += float64(tensor) * (weight / total)
    return mean.to(first)
