"""What training changed of an adapter as one row of numbers, and back."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from cutlayer.model.lora import Adapter
from cutlayer.train.compute import float64

if TYPE_CHECKING:
    from cutlayer.secure_sum.fixed_point import Floats


def change_values(start: Adapter, trained: Adapter) -> "Floats":
    """What training changed, all tensors one after another in the order of their names [n]."""
    return np.concatenate(
        [
            (float64(trained[name]) - float64(start[name])).flatten().cpu().numpy()
            for name in sorted(trained)
        ]
    )


def adapter_of(values: "Floats", like: Adapter) -> Adapter:
    """The change that `change_values` wrote, with the names and shapes of `like`."""
    found, at = {}, 0
    for name in sorted(like):
        size = like[name].numel()
        found[name] = torch.from_numpy(values[at : at + size].copy()).view(like[name].shape)
        at += size
    return found
