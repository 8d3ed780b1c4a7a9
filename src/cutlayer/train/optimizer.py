"""Moves adapters during one round: optimiser, schedule, FedProx, gradient clipping."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from cutlayer.settings.training import Training
from cutlayer.train.schedule import rate_at
from cutlayer.wire.transfer import to_device

_MOMENTS = {"adamw": ("mean", "square"), "sgd": ("momentum",)}


class StackOptimizer:
    """Moves rows of stacked adapters by their gradients, for one round.

    Each row moves as if it had its own optimiser: it has its own moments, steps done and learning
    rate. The optimiser is new each round, since old momentum refers to weights that averaging has
    overwritten. stack: the tensors that gradients move, by name [M, ...]. start: these tensors at
    the round's start, for FedProx; None without it. steps: of each row in the round.
    """

    def __init__(
        self,
        stack: Mapping[str, Tensor],
        start: Mapping[str, Tensor] | None,
        training: Training,
        round: int,
        steps: Sequence[int],
    ) -> None:
        self._stack = stack
        self._start = start
        self._training = training
        self._round = round
        self._steps = steps
        self._done = {name: np.zeros(len(steps), np.int64) for name in stack}
        self._moments: dict[str, dict[str, Tensor]] = {}

    def step(self, rows: Sequence[int], gradients: Mapping[str, Tensor], step: int) -> None:
        """Apply the gradients [m, ...] of m rows in the round's step `step`.

        Tensors without a gradient stay. The gradients may be overwritten.
        """
        # Sorted by name, so that sums over tensors do not depend on an adapter's own order.
        found = {name: gradients[name] for name in sorted(gradients)}
        if not found:
            return
        training = self._training
        if training.proximal:
            self._pull(rows, found, training.proximal)
        if training.clip_gradient_norm is not None:
            _clip(list(found.values()), training.clip_gradient_norm)
        alike = defaultdict(list)
        for at, row in enumerate(rows):
            done = int(max(self._done[name][row] for name in found))
            alike[rate_at(training, self._round, step, self._steps[row]), done].append(at)
        for (rate, _), places in alike.items():
            own = picked_by_name(found, places)
            self._move([rows[at] for at in places], own, rate)

    def _pull(self, rows: Sequence[int], gradients: Mapping[str, Tensor], mu: float) -> None:
        """The gradient of FedProx's mu / 2 ||w - w_start||^2 (arXiv 1812.06127, equation 2)."""
        assert self._start is not None
        for name, gradient in gradients.items():
            now, start = picked([self._stack[name], self._start[name]], rows)
            gradient.add_(now - start, alpha=mu)

    def _move(self, rows: Sequence[int], gradients: Mapping[str, Tensor], rate: float) -> None:
        """Move rows that have one learning rate and have made equally many steps."""
        training, names = self._training, list(gradients)
        moving = picked([self._stack[name] for name in names], rows)
        moments = [picked(self._kept(kind, names), rows) for kind in _MOMENTS[training.optimizer]]
        given = [gradients[name].contiguous() for name in names]
        if training.optimizer == "sgd":
            sgd(
                moving,
                given,
                list(moments[0]),
                fused=True,
                lr=rate,
                momentum=training.momentum,
                weight_decay=training.weight_decay,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
        else:
            done = [float(self._done[name][rows[0]]) for name in names]
            means, squares = moments
            adamw(
                moving,
                given,
                means,
                squares,
                [],
                list(to_device(torch.tensor(done), moving[0].device).unbind()),
                fused=True,
                amsgrad=False,
                lr=rate,
                beta1=0.9,
                beta2=0.999,
                eps=1e-8,
                weight_decay=training.weight_decay,
                maximize=False,
            )
        for name in names:
            self._done[name][list(rows)] += 1
        if not is_range(rows):  # they were copies
            self._put(rows, [self._stack[name] for name in names], moving)
            for kind, moved in zip(_MOMENTS[training.optimizer], moments, strict=True):
                self._put(rows, self._kept(kind, names), moved)

    def _kept(self, kind: str, names: Sequence[str]) -> list[Tensor]:
        """The moments of one kind, [M, ...] for each tensor; zeros at first."""
        kept = self._moments.setdefault(kind, {})
        for name in names:
            if name not in kept:
                kept[name] = torch.zeros_like(self._stack[name])
        return [kept[name] for name in names]

    @staticmethod
    def _put(rows: Sequence[int], wholes: Sequence[Tensor], parts: Sequence[Tensor]) -> None:
        for whole, part in zip(wholes, parts, strict=True):
            whole.index_copy_(0, to_device(torch.tensor(rows), whole.device), part)


def _clip(gradients: Sequence[Tensor], bound: float) -> None:
    """Scale each row's gradient, over all tensors, down to an L2 norm of `bound`."""
    norms = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]
    total = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    factor = torch.clamp(bound / (total + 1e-6), max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))


def is_range(rows: Sequence[int]) -> bool:
    """Whether rows are consecutive, so that a view can hold them."""
    return list(rows) == list(range(rows[0], rows[0] + len(rows)))


def picked(tensors: Sequence[Tensor], rows: Sequence[int]) -> list[Tensor]:
    """Rows of tensors of one torch device: views if they are consecutive, else copies."""
    if not tensors:
        return []
    if is_range(rows):
        first, count = rows[0], len(rows)
        return [one if count == len(one) else one.narrow(0, first, count) for one in tensors]
    index = to_device(torch.tensor(rows), tensors[0].device)
    return [one.index_select(0, index) for one in tensors]


def picked_by_name(tensors: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """As `picked`, of tensors by name."""
    return dict(zip(tensors, picked(list(tensors.values()), rows), strict=True))
