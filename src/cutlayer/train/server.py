"""The edge server: the blocks after the cut, the head, and the adapters of a round."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from cutlayer.allocate.decision import Decision
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
    ActivationsMessage,
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
        self._decisions: dict[int, Decision] = {}
        self._training: dict[int, _Trained] = {}

    def device_names(self, decision: Decision) -> tuple[str, ...]:
        """The tensors of the adapter that a device with this decision trains."""
        method = self.job.method
        if not method.split:
            return tuple(self.adapter)
        if method.device == "frozen":
            return ()
        return tuple(n for n in self.model.device_names(decision.cut) if n in self.adapter)

    def broadcast(self, device: int, round: int, decision: Decision) -> bytes | None:
        """The device's share of the global adapter as a frame; None where it trains nothing."""
        tensors = {name: self.adapter[name] for name in self.device_names(decision)}
        if not tensors:
            return None
        return encode_adapter(
            AdapterMessage(device, round, 0, tensors), self.job.method.adapter_bits
        )

    def begin(self, decisions: Mapping[int, Decision]) -> None:
        """Start a round: one server adapter for each device, or one for all."""
        self._decisions = dict(decisions)
        self._training = {}
        if not self.job.method.split or not decisions:
            return
        if self.job.method.server_adapter == "averaged":
            self._training = {d: self._fresh(one.cut) for d, one in decisions.items()}
        else:
            shared = self._fresh(min(decision.cut for decision in decisions.values()))
            self._training = dict.fromkeys(decisions, shared)

    def _fresh(self, cut: int) -> _Trained:
        adapter = {
            name: self.adapter[name].detach().clone()
            for name in self.model.server_names(cut)
            if name in self.adapter
        }
        trained = [t.requires_grad_(True) for n, t in adapter.items() if self.model.trained(n)]
        return _Trained(adapter, make_optimizer(trained, self.job.training))

    def step(self, frames: Sequence[bytes], watch: Stopwatch) -> tuple[list[bytes], list[float]]:
        """Forward and backward of a pool of devices' activations; the devices have one cut.

        Returns one gradient frame a device (none when devices train nothing) and each one's mean
        loss. Adapters move at `update`, so pools of any size give the same step; those trained in
        turn move after every device.
        """
        with watch.timed("wire"):
            messages = [decode_activations(frame) for frame in frames]
        for message in messages:
            if message.device not in self._training:
                raise FrameError(
                    f"frame: device {message.device} sent activations but is not in the cohort of "
                    "this round: let it join the next"
                )
        losses: dict[int, float] = {}
        replies: dict[int, bytes] = {}
        for pool in self._pools(messages):
            gradients = self._train(pool, losses)
            for message, gradient in zip(pool, gradients, strict=True):
                if gradient is not None:
                    with watch.timed("wire"):
                        replies[message.device] = self._reply(message, gradient, losses)
            if self.job.method.server_adapter == "in-turn":
                self.update()
        order = [message.device for message in messages]
        return [replies[d] for d in order if d in replies], [losses[d] for d in order]

    def _pools(self, messages: Sequence[ActivationsMessage]) -> Iterator[list[ActivationsMessage]]:
        """Messages that one pass can take: of one length, and one by one where trained in turn."""
        if self.job.method.server_adapter == "in-turn":
            yield from ([message] for message in messages)
            return
        alike = defaultdict(list)
        for message in messages:
            alike[message.hidden.shape[1]].append(message)
        yield from alike.values()

    def _train(
        self, messages: Sequence[ActivationsMessage], losses: dict[int, float]
    ) -> list[torch.Tensor] | list[None]:
        """Forward and backward; the gradient of each one's activations where it is wanted."""
        job, cut = self.job, self._decisions[messages[0].device].cut
        wanted = bool(self.device_names(self._decisions[messages[0].device]))
        hidden = torch.cat([message.hidden for message in messages]).to(self.model.compute)
        hidden.requires_grad_(wanted)
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
        logits = self.model.server_forward(hidden, mask, cut, route)
        parts = losses_by_device(logits, [message.labels for message in messages])
        for message, part in zip(messages, parts, strict=True):
            losses[message.device] = part.item()
            check_finite(part.item(), message.device, message.round, message.step)
            self._training[message.device].contributions += 1
        torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
        if not wanted:
            return [None] * len(messages)
        assert hidden.grad is not None
        return list(torch.split(hidden.grad, [len(message.labels) for message in messages]))

    def _reply(
        self, message: ActivationsMessage, gradient: torch.Tensor, losses: Mapping[int, float]
    ) -> bytes:
        """A gradient as a frame, at the bits decided for its device."""
        seed, bits = self.job.seed, self._decisions[message.device].bits_down
        device, round, step = message.device, message.round, message.step
        return encode_gradient(
            GradientMessage(device, round, step, gradient, losses[device], message.mask),
            self.job.method.downlink.model_copy(update={"bits": bits}),
            rng=torch_rng(seed, device, round, "downlink", step),
            rotation_seed=derive(seed, "rotation"),
        )

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

    def collect(self, frames: Mapping[int, bytes], samples: Mapping[int, int]) -> None:
        """Average the devices' uploads and their server adapters into the global adapter.

        samples: of every device that counts, its weight; frames: uploads of those that trained.
        """
        devices = sorted(samples)
        joined: list[Adapter] = []
        for device in devices:
            whole: Adapter = {}
            if trained := self._training.get(device):
                names = self.model.server_names(self._decisions[device].cut)
                whole |= {name: trained.adapter[name] for name in names if name in trained.adapter}
            if device in frames:
                sent = decode_adapter(frames[device]).tensors
                whole |= {name: tensor.to(self.model.compute) for name, tensor in sent.items()}
            joined.append(whole)
        average = weighted_average(joined, [float(samples[device]) for device in devices])
        self.adapter = {
            name: average[name].to(tensor.device) if name in average else tensor
            for name, tensor in self.adapter.items()
        }
        self._training = {}
