"""Turns the change that training made to an adapter into one row of numbers, and back."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from cutlayer.model.lora import Adapter
from cutlayer.train.compute import float64

if TYPE_CHECKING:
    from cutlayer.secure_sum.fixed_point import Floats


def change_values(start: Adapter, trained: Adapter) -> "Floats":
    """The change of all tensors as numbers [n], tensor after tensor in the order of their names."""
    return np.concatenate(
        [
            (float64(trained[name]) - float64(start[name])).flatten().cpu().numpy()
            for name in sorted(trained)
        ]
    )


def adapter_of(values: "Floats", like: Adapter) -> Adapter:
    """The numbers of `change_values` as an adapter with the names and shapes of `like`."""
    found, at = {}, 0
    for name in sorted(like):
        size = like[name].numel()
        found[name] = torch.from_numpy(values[at : at + size].copy()).view(like[name].shape)
        at += size
    return found
