"""The adapters in training of devices with one cut: a stack a tensor, and each device a row."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from cutlayer.model.lora import Adapter
from cutlayer.model.stack import AdapterStack
from cutlayer.settings.training import Training
from cutlayer.train.optimizer import StackOptimizer, picked


class TrainedStack:
    """Adapters with the same names and shapes, from the start of a round to its end.

    adapters: what each row starts from, which is left as it is. moves: whether a gradient trains a
    tensor of that name. steps: of each row in the round.
    """

    def __init__(
        self,
        adapters: Sequence[Adapter],
        moves: Callable[[str], bool],
        training: Training,
        round: int,
        steps: Sequence[int],
    ) -> None:
        self._count = len(adapters)
        self.tensors = {
            name: torch.stack([adapter[name].detach() for adapter in adapters])
            for name in adapters[0]
        }
        self._moving = {name: t for name, t in self.tensors.items() if moves(name)}
        self._start: dict[str, Tensor] | None = None
        if training.proximal or training.clip_update_norm is not None:
            self._start = {name: tensor.clone() for name, tensor in self.tensors.items()}
        self._optimizer = StackOptimizer(self._moving, self._start, training, round, steps)

    def __len__(self) -> int:
        return self._count

    def adapter(self, row: int) -> Adapter:
        """The adapter of a row: views, which show what it has become."""
        return {name: tensor[row] for name, tensor in self.tensors.items()}

    def start(self, row: int) -> Adapter:
        """What a row started from, where FedProx or clipping go by it; nothing else."""
        return {name: tensor[row] for name, tensor in (self._start or {}).items()}

    def open(self, rows: Sequence[int], sizes: Sequence[int] | None = None) -> "OpenRows":
        """Rows for a pass, whose gradients are taken afterwards.

        sizes: where each sample is to have a gradient of its own, how many each row has: there is
        then a row for each of them.
        """
        return OpenRows(self.tensors, self._moving, rows, sizes)

    def step(self, rows: Sequence[int], gradients: Mapping[str, Tensor], step: int) -> None:
        """Move rows by their gradients, [m, ...] a tensor, in the round's step `step`."""
        self._optimizer.step(rows, gradients, step)


class OpenRows(AdapterStack):
    """Rows of trained adapters as leaves of a graph: views where they are neighbours."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        moving: Mapping[str, Tensor],
        rows: Sequence[int],
        sizes: Sequence[int] | None = None,
    ) -> None:
        values = {name: picked(tensor, rows).detach() for name, tensor in moving.items()}
        if sizes is not None:
            counts = torch.tensor(sizes)
            values = {
                name: tensor.repeat_interleave(counts.to(tensor.device), dim=0)
                for name, tensor in values.items()
            }
            rows = [row for row, count in zip(rows, sizes, strict=True) for _ in range(count)]
        self.leaves = {name: tensor.requires_grad_() for name, tensor in values.items()}
        still = {name: tensor for name, tensor in tensors.items() if name not in moving}
        apart = {name: [tensor[row] for row in rows] for name, tensor in still.items()}
        super().__init__(self.leaves, len(rows), apart)
