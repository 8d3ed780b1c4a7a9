"""The adapters that the server trains in a round: one a device, or one that devices share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter
from cutlayer.train.finite import are_finite
from cutlayer.train.optimizer import AdapterOptimizer


@dataclass
class _Trained:
    """An adapter in training. batches: those whose gradients it holds since it moved."""

    adapter: Adapter
    optimizer: AdapterOptimizer
    batches: int = 0


class ServerAdapters:
    """What lies after the cut, for the devices of a round or of one turn of it.

    start: the global adapter, which is left as it is. decisions, steps: of each device in it.
    bare: the first blocks that carry no adapter (see bare_blocks.py).
    """

    def __init__(
        self,
        job: Job,
        model: CutModel,
        start: Adapter,
        round: int,
        decisions: Mapping[int, Decision],
        steps: Mapping[int, int],
        bare: int = 0,
    ) -> None:
        self._decisions, self._model, self._bare = decisions, model, bare
        self._trained: dict[int, _Trained] = {}

        def fresh(cut: int, most: int) -> _Trained:
            names = [name for name in model.server_names(max(cut, bare)) if name in start]
            adapter = {name: start[name].detach().clone() for name in names}
            return _Trained(
                adapter,
                AdapterOptimizer(adapter, start, model.trained, job.training, round, most),
            )

        if not job.method.split or not decisions:
            return
        if job.method.server_adapter == "averaged":
            self._trained = {d: fresh(one.cut, steps[d]) for d, one in decisions.items()}
        else:
            first = min(one.cut for one in decisions.values())
            self._trained = dict.fromkeys(decisions, fresh(first, max(steps.values())))

    def __contains__(self, device: int) -> bool:
        """Whether the server trains anything for a device."""
        return device in self._trained

    def __getitem__(self, device: int) -> Adapter:
        """The adapter that a device's batches go through."""
        return self._trained[device].adapter

    def after_cut(self, device: int) -> Adapter:
        """Those of its tensors that lie after the device's own cut; none without an adapter."""
        if device not in self._trained:
            return {}
        held = self._trained[device].adapter
        names = self._model.server_names(max(self._decisions[device].cut, self._bare))
        return {name: held[name] for name in names if name in held}

    def trained_by(self, devices: Sequence[int]) -> list[torch.Tensor]:
        """The tensors that batches of the devices train, each once."""
        held = _each_once(self._trained[device] for device in devices)
        return [tensor for one in held for tensor in one.optimizer.trained.values()]

    def add(self, devices: Sequence[int], gradients: Sequence[torch.Tensor | None]) -> None:
        """Add the gradients of one batch of each device, in the order of `trained_by`."""
        for tensor, gradient in zip(self.trained_by(devices), gradients, strict=True):
            if gradient is not None:
                tensor.grad = gradient if tensor.grad is None else tensor.grad.add_(gradient)
        for device in devices:
            self._trained[device].batches += 1

    def update(self, step: int) -> None:
        """Move every adapter by the mean gradient of the batches since it moved last.

        A batch counts as one, whatever its size: an adapter that devices share moves by the mean
        of their mean gradients, over those that still have batches.
        """
        for trained in _each_once(self._trained.values()):
            if not trained.batches:
                continue
            if trained.batches > 1:
                for gradient in trained.optimizer.gradients():
                    gradient /= trained.batches
            trained.optimizer.step(step)
            trained.batches = 0

    def not_finite(self) -> list[int]:
        """The devices whose adapter holds NaN or infinity."""
        adapters = [list(one.adapter.values()) for one in self._trained.values()]
        fine = are_finite(adapters)
        return [device for device, good in zip(self._trained, fine, strict=True) if not good]


def _each_once(trained: Iterable[_Trained]) -> Iterable[_Trained]:
    return {id(one): one for one in trained}.values()
