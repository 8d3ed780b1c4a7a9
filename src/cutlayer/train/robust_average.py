"""Averages that a few devices cannot steer, and updates scaled down to the size usual in a round.

Every device has the same weight: a weight by samples would let a device gain influence by a lie
about their number. All sums run in float64.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from cutlayer.model.lora import Adapter
from cutlayer.settings.trust import Trust
from cutlayer.train.aggregate import average_by_samples
from cutlayer.train.compute import float64


def combined(adapters: Mapping[int, Adapter], samples: Mapping[int, int], trust: Trust) -> Adapter:
    """One adapter from those of a round's devices, as `trust.average` says.

    Each tensor is combined over the adapters that hold it. samples: by device; only the mean uses
    them.
    """
    devices = sorted(adapters)
    ordered = [adapters[device] for device in devices]
    if trust.average == "mean":
        return average_by_samples(ordered, [samples[device] for device in devices])
    if trust.average == "krum":
        return dict(ordered[krum(ordered, trust.hostile)])
    names = dict.fromkeys(name for adapter in ordered for name in adapter)
    found = {}
    for name in names:
        stacked = torch.stack([float64(one[name]) for one in ordered if name in one])
        trimmed = trust.hostile if trust.average == "trimmed-mean" else (len(stacked) - 1) // 2
        like = next(one[name] for one in ordered if name in one)
        found[name] = _trimmed_mean(stacked, trimmed).to(like)
    return found


def _trimmed_mean(values: Tensor, trimmed: int) -> Tensor:
    """The mean over n of values [n, ...] without the `trimmed` largest and smallest ones.

    Yin et al. 2018, arXiv 1803.01498, definition 2. If that would leave none, one or two are left,
    which gives the median (definition 1).
    """
    trimmed = min(trimmed, (len(values) - 1) // 2)
    kept = values.sort(0).values[trimmed : len(values) - trimmed]
    return kept.mean(0)


def krum(adapters: Sequence[Adapter], hostile: int) -> int:
    """The index of the adapter with the least sum of squared distances to its nearest others.

    Of n adapters the n - hostile - 2 nearest count, and at least one if the round lost devices
    (Blanchard et al. 2017, arXiv 1703.02757, section 4). The adapters hold the same tensors; of
    equal sums the first is taken.
    """
    if len(adapters) == 1:
        return 0
    flat = torch.stack(
        [torch.cat([float64(one[name]).flatten() for name in sorted(one)]) for one in adapters]
    )
    # Matrix products are not used: their rounding would hide small distances beside large ones.
    squared = torch.stack([(flat - row).square().sum(1) for row in flat])
    squared.fill_diagonal_(torch.inf)
    nearest = max(1, len(adapters) - hostile - 2)
    return int(squared.sort(1).values[:, :nearest].sum(1).argmin())


def scaled_to_median(
    start: Adapter,
    trained: Mapping[int, Adapter],
    most: float,
    moves: Callable[[str], bool],
) -> tuple[dict[int, Adapter], dict[int, float]]:
    """Adapters whose change since `start` is at most `most` times the round's median change.

    Changes are measured by their L2 norm over the tensors that a gradient trains (`moves`). Also
    returns, for each change that was scaled down, how many times larger than the bound it was.
    """
    changes = {
        device: {
            name: float64(tensor) - float64(start[name])
            for name, tensor in sorted(adapter.items())
            if moves(name)
        }
        for device, adapter in trained.items()
    }
    norms = {
        device: torch.nn.utils.get_total_norm(list(one.values())).item() if one else 0.0
        for device, one in changes.items()
    }
    bound = most * statistics.median_low(norms.values()) if norms else 0.0
    found, excess = dict(trained), {}
    for device, norm in norms.items():
        if norm > bound > 0:
            excess[device] = norm / bound
            found[device] = trained[device] | {
                name: (float64(start[name]) + change / excess[device]).to(start[name])
                for name, change in changes[device].items()
            }
    return found, excess
