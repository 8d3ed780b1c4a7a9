"""The optimiser of one adapter during one round."""

from collections.abc import Iterable

import torch

from cutlayer.settings.training import Training


def make_optimizer(tensors: Iterable[torch.Tensor], training: Training) -> torch.optim.Optimizer:
    """A fresh optimiser over an adapter's tensors.

    Optimisers live for one round: what a device would keep between rounds belongs to an adapter
    that the round's average has replaced.
    """
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            tensors,
            lr=training.lr,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(
        tensors, lr=training.lr, weight_decay=training.weight_decay, fused=True
    )
