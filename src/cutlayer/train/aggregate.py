"""Averages of adapters, each weighted by the samples that its device trained on.

`_weight` in round.py decides how many samples count for a device.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch

from cutlayer.model.lora import Adapter
from cutlayer.train.compute import float64

_TOGETHER = 2**22


def average_by_samples(adapters: Sequence[Adapter], samples: Sequence[int]) -> Adapter:
    """FedAvg (arXiv 1602.05629): an adapter's weight is the number of samples it was trained on."""
    return weighted_average(adapters, [float(count) for count in samples])


def weighted_average(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """sum_n rho_n w_n with rho_n = weight_n / sum of weights.

    Each tensor is averaged over the adapters that hold it, so that adapters of different cuts
    join into one. Sums run in float64 in the given order.
    """
    average: Adapter = {}
    for names, holders in _held_alike(adapters):
        total = sum(weights[place] for place in holders)
        first = adapters[holders[0]]
        mean = torch.zeros_like(float64(_flat(first, names)))
        for place in holders:
            mean += float64(_flat(adapters[place], names)) * (weights[place] / total)
        parts = torch.split(mean, [first[name].numel() for name in names])
        for name, part in zip(names, parts, strict=True):
            average[name] = part.view(first[name].shape).to(first[name])
    return average


def _held_alike(adapters: Sequence[Adapter]) -> list[tuple[list[str], list[int]]]:
    """Groups of tensors that the same adapters hold with one dtype: their names, and the adapters.

    A group is small enough that its sums in float64 take little memory.
    """
    alike: dict[tuple[object, ...], list[str]] = defaultdict(list)
    values = 0
    for name in dict.fromkeys(name for adapter in adapters for name in adapter):
        holders = [place for place, adapter in enumerate(adapters) if name in adapter]
        first = adapters[holders[0]][name]
        values += first.numel()
        alike[values // _TOGETHER, first.dtype, *holders].append(name)
    return [
        (names, [place for place, adapter in enumerate(adapters) if names[0] in adapter])
        for names in alike.values()
    ]


def _flat(adapter: Adapter, names: Sequence[str]) -> torch.Tensor:
    """Tensors of an adapter joined into one, so that a few operations do for all of them."""
    return torch.cat([adapter[name].detach().reshape(-1) for name in names])
