"""Makes the next global adapter from the average of a round: FedAvg, FedAvgM, FedAdam."""

from collections.abc import Callable

import torch

from cutlayer.model.lora import Adapter
from cutlayer.settings.training import Training

Moments = dict[str, Adapter]
"""The tensors that a server optimiser keeps from round to round, by kind: momentum, variance."""


def move_global(
    training: Training,
    start: Adapter,
    average: Adapter,
    moments: Moments,
    trained: Callable[[str], bool],
) -> tuple[Adapter, Moments]:
    """The next global adapter and moments, from the average a of a round that began at w.

    average: takes a. momentum: v = beta v + (a - w), w = w + lr v (FedAvgM, arXiv 1909.06335).
    adam: m = beta m + (1 - beta) (a - w), v = beta2 v + (1 - beta2) (a - w)^2,
    w = w + lr m / (sqrt v + tau) (arXiv 2003.00295, algorithm 2). A tensor that no device trained
    in the round (it is the same object as in `start`) stays, and so do its moments. Running
    statistics, which no gradient moves (`trained` is False for them), are only averaged.
    """
    if training.server_optimizer == "average":
        return average, moments
    adapter = dict(average)
    kept = {kind: dict(tensors) for kind, tensors in moments.items()}
    for name, mean in average.items():
        if mean is start[name] or not trained(name):
            continue
        before = start[name].detach()
        change = mean.detach() - before
        if training.server_optimizer == "momentum":
            step = _momentum(training, kept, name, change)
        else:
            step = _adam(training, kept, name, change)
        adapter[name] = before + step
    return adapter, kept


def _momentum(training: Training, kept: Moments, name: str, change: torch.Tensor) -> torch.Tensor:
    velocity = _last(kept, "momentum", name, change) * training.server_momentum + change
    kept["momentum"][name] = velocity
    return velocity * (1.0 if training.server_lr is None else training.server_lr)


def _adam(training: Training, kept: Moments, name: str, change: torch.Tensor) -> torch.Tensor:
    mean = torch.lerp(change, _last(kept, "momentum", name, change), training.server_momentum)
    square = change.square()
    square = torch.lerp(square, _last(kept, "variance", name, change), training.server_beta2)
    kept["momentum"][name], kept["variance"][name] = mean, square
    rate = 0.01 if training.server_lr is None else training.server_lr
    return rate * mean / (square.sqrt() + training.server_epsilon)


def _last(kept: Moments, kind: str, name: str, like: torch.Tensor) -> torch.Tensor:
    held = kept.setdefault(kind, {}).get(name)
    return torch.zeros_like(like) if held is None else held.to(like.device)
