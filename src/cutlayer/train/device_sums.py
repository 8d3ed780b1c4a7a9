"""Sums over the samples of each of many devices, in one batch."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor


def device_sums(each: Tensor, sizes: Sequence[int]) -> Tensor:
    """[M]: the sum of each device's numbers, which lie one after another.

    sizes: how many each has; neighbours with as many are one sum, in a fixed order.
    """
    runs = [(size, len(list(run))) for size, run in groupby(sizes)]
    parts = torch.split(each, [size * count for size, count in runs])
    return torch.cat(
        [part.view(count, size).sum(1) for part, (size, count) in zip(parts, runs, strict=True)]
    )
