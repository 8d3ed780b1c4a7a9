"""The edge server: the blocks after the cut, the head, and the adapters of a round."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cutlayer.errors import FrameError
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter, Segment
from cutlayer.seeds import derive, torch_rng
from cutlayer.train.aggregate import weighted_average
from cutlayer.train.device import check_finite, losses_by_device
from cutlayer.train.optim import make_optimizer
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.wire.codec import (
    AdapterMessage,
    GradientMessage,
    decode_activations,
    decode_adapter,
    encode_adapter,
    encode_gradient,
)


@dataclass
class _Trained:
    """A server adapter in training during a round."""

    adapter: Adapter
    optimizer: torch.optim.Optimizer
    contributions: int = 0


class Server:
    """Holds the global adapter, trains the server part, and averages.

    adapter: the global adapter of the whole model (before the cut, after it, and the head).
    """

    def __init__(self, job: Job, model: CutModel, adapter: Adapter) -> None:
        self.job = job
        self.model = model
        self.adapter = adapter
        method, cut = job.method, job.model.cut
        # What a device trains, and what is trained here in its stead.
        self._device_names = model.device_names(cut) if method.split else tuple(adapter)
        self._device_names = tuple(name for name in self._device_names if name in adapter)
        self._server_names = tuple(name for name in adapter if name not in self._device_names)
        self._training: dict[int, _Trained] = {}

    @property
    def returns_gradient(self) -> bool:
        """Whether devices have anything to train before the cut."""
        return bool(self._device_names)

    def broadcast(self, device: int, round: int) -> bytes:
        """The device's share of the global adapter as a frame."""
        tensors = {name: self.adapter[name] for name in self._device_names}
        return encode_adapter(
            AdapterMessage(device, round, 0, tensors), self.job.method.adapter_bits
        )

    def begin(self, cohort: Sequence[int]) -> None:
        """Start a round: one server adapter for each device, or one for all."""
        shared = self.job.method.server_adapter == "shared"
        self._training = {}
        for device in cohort:
            if shared and self._training:
                self._training[device] = next(iter(self._training.values()))
            elif self._server_names:
                self._training[device] = self._fresh()

    def _fresh(self) -> _Trained:
        adapter = {
            name: self.adapter[name].detach().clone().requires_grad_(True)
            for name in self._server_names
        }
        return _Trained(adapter, make_optimizer(adapter.values(), self.job.training))

    def step(self, frames: Sequence[bytes], watch: Stopwatch) -> tuple[list[bytes], list[float]]:
        """Forward and backward of a pool of devices' activations.

        Returns one gradient frame a device (none when devices train nothing) and each one's mean
        loss. Adapters move at `update`, so pools of any size give the same step.
        """
        job = self.job
        with watch.timed("wire"):
            messages = [decode_activations(frame) for frame in frames]
        for message in messages:
            if message.device not in self._training:
                raise FrameError(
                    f"frame: device {message.device} sent activations but is not in the cohort of "
                    "this round: let it join the next"
                )
        hidden = torch.cat([message.hidden for message in messages]).to(self.model.compute)
        hidden.requires_grad_(self.returns_gradient)
        masks = [message.mask for message in messages]
        mask = None
        if masks[0] is not None:
            mask = torch.cat([m for m in masks if m is not None]).to(self.model.compute)
        route = []
        for message in messages:
            rng = None
            if job.model.lora.dropout:
                key = (message.device, message.round, "server-dropout", message.step)
                rng = torch_rng(job.seed, *key)
            adapter = self._training[message.device].adapter
            route.append(Segment(adapter, len(message.labels), rng))
        logits = self.model.server_forward(hidden, mask, job.model.cut, route)
        losses = losses_by_device(logits, [message.labels for message in messages])
        values = [loss.item() for loss in losses]
        for message, value in zip(messages, values, strict=True):
            check_finite(value, message.device, message.round, message.step)
            self._training[message.device].contributions += 1
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        if not self.returns_gradient:
            return [], values
        assert hidden.grad is not None
        gradients = torch.split(hidden.grad, [len(message.labels) for message in messages])
        with watch.timed("wire"):
            replies = [
                encode_gradient(
                    GradientMessage(
                        message.device, message.round, message.step, gradient, value, message.mask
                    ),
                    job.method.downlink,
                    rng=torch_rng(
                        job.seed, message.device, message.round, "downlink", message.step
                    ),
                    rotation_seed=derive(job.seed, "rotation"),
                )
                for message, gradient, value in zip(messages, gradients, values, strict=True)
            ]
        return replies, values

    def update(self) -> None:
        """Move every server adapter by the mean gradient of the batches it has seen."""
        for trained in {id(t): t for t in self._training.values()}.values():
            if not trained.contributions:
                continue
            if trained.contributions > 1:
                for tensor in trained.adapter.values():
                    if tensor.grad is not None:
                        tensor.grad /= trained.contributions
            trained.optimizer.step()
            trained.optimizer.zero_grad(set_to_none=True)
            trained.contributions = 0

    def collect(self, frames: Sequence[bytes]) -> None:
        """Average the devices' uploads and their server adapters into the global adapter."""
        messages = sorted((decode_adapter(frame) for frame in frames), key=lambda m: m.device)
        weights = [float(message.samples) for message in messages]
        joined = []
        for message in messages:
            trained = self._training.get(message.device)
            joined.append({**message.tensors, **(trained.adapter if trained else {})})
        average = weighted_average(joined, weights)
        self.adapter = {
            name: average[name].to(tensor.device) if name in average else tensor
            for name, tensor in self.adapter.items()
        }
        self._training = {}
