"""The adapters in training of devices with one cut: a stack for each tensor, a row a device."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from cutlayer.model.lora import Adapter
from cutlayer.model.stack import AdapterStack
from cutlayer.settings.training import Training
from cutlayer.train.optimizer import StackOptimizer, picked_by_name


class TrainedStack:
    """Adapters with the same names and shapes, from the start of a round to its end.

    adapters: from which each row starts; they are not changed. moves: says of a tensor's name
    whether gradients train it. steps: how many each row makes in the round.
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
        """The adapter of a row, as views of the present values."""
        return {name: tensor[row] for name, tensor in self.tensors.items()}

    def start(self, row: int) -> Adapter:
        """The tensors from which a row started, kept only for FedProx and clipping; else empty."""
        return {name: tensor[row] for name, tensor in (self._start or {}).items()}

    def open(self, rows: Sequence[int], sizes: Sequence[int] | None = None) -> "OpenRows":
        """Rows for a pass after which their gradients are computed.

        sizes: how many samples each row has, if each sample is to have its own gradient; then there
        is a row for each sample.
        """
        return OpenRows(self.tensors, self._moving, rows, sizes)

    def step(self, rows: Sequence[int], gradients: Mapping[str, Tensor], step: int) -> None:
        """Move rows by their gradients [m, ...] in the round's step `step`."""
        self._optimizer.step(rows, gradients, step)


class OpenRows(AdapterStack):
    """Rows of trained adapters as leaves of a graph: views if they are consecutive, else copies."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        moving: Mapping[str, Tensor],
        rows: Sequence[int],
        sizes: Sequence[int] | None = None,
    ) -> None:
        picked = picked_by_name(moving, rows)
        values = {name: tensor.detach() for name, tensor in picked.items()}
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
