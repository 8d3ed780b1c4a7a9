"""Sums over the samples of each device in a batch of many devices."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor


def device_sums(each: Tensor, sizes: Sequence[int]) -> Tensor:
    """The sum of each device's numbers [M]; `each` [n] holds them device after device.

    sizes: how many numbers each device has; neighbours with equally many are summed at once, in a
    fixed order.
    """
    runs = [(size, len(list(run))) for size, run in groupby(sizes)]
    parts = torch.split(each, [size * count for size, count in runs])
    return torch.cat(
        [part.view(count, size).sum(1) for part, (size, count) in zip(parts, runs, strict=True)]
    )
