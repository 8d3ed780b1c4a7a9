"""What moves one adapter during one round: optimiser, schedule, FedProx, gradient clipping."""

from collections.abc import Callable

import torch

from cutlayer.model.lora import Adapter
from cutlayer.settings.training import Training
from cutlayer.train.schedule import rate_at


class AdapterOptimizer:
    """Moves an adapter by its gradients, for one round.

    It is made anew each round: old momentum refers to weights that averaging has overwritten.
    start: the adapter that the round began with, for FedProx. moves: which of its tensors are
    trained by a gradient. steps: of the round.
    """

    def __init__(
        self,
        adapter: Adapter,
        start: Adapter,
        moves: Callable[[str], bool],
        training: Training,
        round: int,
        steps: int,
    ) -> None:
        # By name, so that sums over tensors do not depend on the order an adapter came in.
        self.trained = {n: adapter[n].requires_grad_() for n in sorted(adapter) if moves(n)}
        self._start = start
        self._training = training
        self._round = round
        self._steps = steps
        self._optimizer = _optimizer(list(self.trained.values()), training)

    def gradients(self) -> list[torch.Tensor]:
        """The gradients that `step` will go by."""
        return [t.grad for t in self.trained.values() if t.grad is not None]

    def step(self, step: int) -> None:
        """Apply the gradients of the round's step `step`, and drop them."""
        training = self._training
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(training, self._round, step, self._steps)
        if training.proximal:
            self._pull(training.proximal)
        if training.clip_gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.trained.values(), training.clip_gradient_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _pull(self, mu: float) -> None:
        """The gradient of FedProx's mu / 2 ||w - w_start||^2 (arXiv 1812.06127, equation 2)."""
        for name, tensor in self.trained.items():
            if tensor.grad is not None:
                tensor.grad.add_(tensor.detach() - self._start[name], alpha=mu)


def _optimizer(tensors: list[torch.Tensor], training: Training) -> torch.optim.Optimizer:
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
