"""The adapters that the server trains in a round: one for each device, or one that they share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter
from cutlayer.model.stack import StackRow
from cutlayer.seeds import torch_rng
from cutlayer.train.finite import finite_rows
from cutlayer.train.noise import noise_seed, noisy_sums
from cutlayer.train.trained_stack import OpenRows, TrainedStack


@dataclass
class _Held:
    """Gradients of rows of a stack that wait for `update`, summed over `batches` batches each."""

    rows: list[int]
    gradients: dict[str, Tensor]
    batches: int


@dataclass
class _Trained:
    """Adapters in training, and the gradients that wait for `update`."""

    stack: TrainedStack
    held: list[_Held] = field(default_factory=list)


@dataclass(frozen=True)
class ServerPass:
    """The adapters of one forward pass.

    adapters: one for each device, or one for each of its samples. rows: the rows of the stack for
    which gradients are computed. sizes: how many samples each device has, if each sample has a
    gradient of its own.
    """

    devices: Sequence[int]
    adapters: Sequence[Sequence[StackRow]]
    rows: OpenRows
    sizes: Sequence[int] | None = None


class ServerAdapters:
    """The adapters after the cut, for the devices of a round or of one turn of it.

    start: the global adapter, which is not changed. decisions, steps: of each device of the round.
    bare: how many first blocks carry no adapter (see bare_blocks.py).
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
        self._job, self._round = job, round
        self._places: dict[int, tuple[_Trained, int]] = {}

        def fresh(cut: int, most: Sequence[int]) -> _Trained:
            names = [name for name in model.server_names(max(cut, bare)) if name in start]
            adapter = {name: start[name] for name in names}
            return _Trained(
                TrainedStack([adapter] * len(most), model.trained, job.training, round, most)
            )

        if not job.method.split or not decisions:
            return
        if job.method.server_adapter == "averaged":
            for cut in dict.fromkeys(one.cut for one in decisions.values()):
                alike = [device for device, one in decisions.items() if one.cut == cut]
                trained = fresh(cut, [steps[device] for device in alike])
                self._places |= {device: (trained, row) for row, device in enumerate(alike)}
        else:
            first = min(one.cut for one in decisions.values())
            self._places = dict.fromkeys(decisions, (fresh(first, [max(steps.values())]), 0))

    def __contains__(self, device: int) -> bool:
        """Whether the server trains anything for a device."""
        return device in self._places

    def after_cut(self, device: int) -> Adapter:
        """The adapter that was trained after a device's own cut; empty if nothing was."""
        if device not in self._places:
            return {}
        trained, row = self._places[device]
        held = trained.stack.adapter(row)
        names = self._model.server_names(max(self._decisions[device].cut, self._bare))
        return {name: held[name] for name in names if name in held}

    def open(self, devices: Sequence[int], sizes: Sequence[int]) -> ServerPass:
        """The adapters for one batch of each of some devices of one cut. sizes: of the batches."""
        trained, _ = self._places[devices[0]]
        if self._job.privacy.unit == "sample":
            opened = trained.stack.open([self._places[device][1] for device in devices], sizes)
            left = iter(opened.rows)
            each = [[next(left) for _ in range(size)] for size in sizes]
            return ServerPass(devices, each, opened, sizes)
        rows = list(dict.fromkeys(self._places[device][1] for device in devices))
        opened = trained.stack.open(rows)
        by_row = dict(zip(rows, opened.rows, strict=True))
        return ServerPass(devices, [[by_row[self._places[d][1]]] for d in devices], opened)

    def add(self, done: ServerPass, gradients: Sequence[Tensor | None], step: int) -> None:
        """Add the gradients of a pass of the round's step `step`, in the order of its leaves."""
        trained, _ = self._places[done.devices[0]]
        rows = list(dict.fromkeys(self._places[device][1] for device in done.devices))
        given = {
            name: gradient
            for name, gradient in zip(done.rows.leaves, gradients, strict=True)
            if gradient is not None
        }
        if done.sizes is not None and given:
            given = self._noisy(given, done, rows, step)
        batches = len(done.devices) // len(rows)
        for held in trained.held:
            if held.rows == rows:  # an adapter that devices share
                for name, gradient in given.items():
                    if name in held.gradients:
                        gradient = held.gradients[name].add_(gradient)
                    held.gradients[name] = gradient
                held.batches += batches
                return
        trained.held.append(_Held(rows, given, batches))

    def _noisy(
        self, given: Mapping[str, Tensor], done: ServerPass, rows: Sequence[int], step: int
    ) -> dict[str, Tensor]:
        """The gradient of each row from those of its devices' samples, bounded and with noise."""
        assert done.sizes is not None
        rngs = [
            torch_rng(noise_seed(self._job), device, self._round, "server-noise", step)
            for device in done.devices
        ]
        by_device = noisy_sums(given, done.sizes, self._job.privacy, rngs)
        if len(rows) == len(done.devices):
            return by_device
        at = torch.tensor([rows.index(self._places[device][1]) for device in done.devices])
        return {
            name: one.new_zeros(len(rows), *one.shape[1:]).index_add_(0, at.to(one.device), one)
            for name, one in by_device.items()
        }

    def update(self, step: int) -> None:
        """Move every adapter by the mean gradient of the batches added since its last step.

        A batch counts as one, whatever its size: an adapter that devices share moves by the mean
        of their mean gradients, over those that still have batches.
        """
        for trained in self._stacks():
            for held in trained.held:
                if held.batches > 1:
                    for gradient in held.gradients.values():
                        gradient /= held.batches
                trained.stack.step(held.rows, held.gradients, step)
            trained.held = []

    def not_finite(self) -> list[int]:
        """The devices whose adapter holds NaN or infinity."""
        fine = {
            id(one): finite_rows(list(one.stack.tensors.values()), len(one.stack))
            for one in self._stacks()
        }
        return [d for d, (trained, row) in self._places.items() if not fine[id(trained)][row]]

    def _stacks(self) -> list[_Trained]:
        """Each stack once."""
        return list({id(trained): trained for trained, _ in self._places.values()}.values())
