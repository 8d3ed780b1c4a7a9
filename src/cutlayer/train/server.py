"""The edge server: the blocks after the cut, the head, and the adapters of a round."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cutlayer.allocate.decision import Decision
from cutlayer.errors import CutlayerError, FrameError, RunError
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter, Segment
from cutlayer.seeds import derive, torch_rng
from cutlayer.train.aggregate import weighted_average
from cutlayer.train.device import check_finite, losses_by_device
from cutlayer.train.optim import make_optimizer
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.train.uploads import far_updates, read_adapter
from cutlayer.wire.codec import (
    ActivationsMessage,
    AdapterMessage,
    GradientMessage,
    decode_activations,
    encode_adapter,
    encode_gradient,
)


@dataclass
class _Trained:
    """A server adapter in training during a round."""

    adapter: Adapter
    optimizer: torch.optim.Optimizer
    contributions: int = 0


@dataclass
class Stepped:
    """What a step came to, by device: a gradient's frame if one is due, and the mean loss.

    faults: why a device has none: its frame was not the one due, or its loss is not a number.
    """

    replies: dict[int, bytes] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    faults: dict[int, CutlayerError] = field(default_factory=dict)


class Server:
    """Holds the global adapter, trains the server part, and averages.

    adapter: the global adapter of the whole model (before the cut, after it, and the head). seen:
    samples of each device that came through the cut this round, in all epochs.
    """

    def __init__(self, job: Job, model: CutModel, adapter: Adapter) -> None:
        self.job = job
        self.model = model
        self.adapter = adapter
        self._round = -1
        self._decisions: dict[int, Decision] = {}
        self._training: dict[int, _Trained] = {}
        self.seen: dict[int, int] = {}

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

    def begin(self, round: int, decisions: Mapping[int, Decision]) -> None:
        """Start a round: one server adapter for each device, or one for all."""
        self._round, self._decisions = round, dict(decisions)
        self._training, self.seen = {}, dict.fromkeys(decisions, 0)
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

    def step(self, step: int, frames: Mapping[int, bytes], watch: Stopwatch) -> Stepped:
        """Forward and backward of a pool of devices' activations; the devices have one cut.

        A device's bad frame or loss is its own: the others' results are those without it. Adapters
        move at `update`, so pools of any size give the same step; those trained in turn move after
        every device.
        """
        done = Stepped()
        messages = []
        with watch.timed("wire"):
            for device, frame in frames.items():
                try:
                    messages.append(self._read(device, step, frame))
                except FrameError as fault:
                    done.faults[device] = fault
        for pool in self._pools(messages):
            trained, gradients = self._train(pool, done)
            for message, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    with watch.timed("wire"):
                        self._reply(message, gradient, done)
            if self.job.method.server_adapter == "in-turn":
                self.update()
        order = [device for device in frames if device in done.losses]
        done.losses = {device: done.losses[device] for device in order}
        done.replies = {d: done.replies[d] for d in order if d in done.replies}
        return done

    def _read(self, device: int, step: int, frame: bytes) -> ActivationsMessage:
        """The activations of a frame. Raises FrameError for any but those due."""
        message = decode_activations(frame)
        if device not in self._training:
            raise FrameError(
                f"frame: device {device} sent activations but is not in the cohort of this round: "
                "let it join the next"
            )
        due = (device, self._round, step)
        if (message.device, message.round, message.step) != due:
            raise FrameError(
                f"frame: device {device} sent activations of device {message.device}, round "
                f"{message.round}, step {message.step} when those of round {self._round}, step "
                f"{step} were due: run the same cutlayer on both sides"
            )
        spec, decision = self.model.spec, self._decisions[device]
        shape = tuple(message.hidden.shape)
        tokens = self._tokens(decision)
        fits = (
            shape[0] <= self.job.training.batch_size
            and (shape[1] <= tokens if spec.modality == "text" else shape[1] == tokens)
            and shape[2] == spec.width_at(decision.cut)
            and (message.mask is not None) == (spec.modality == "text")
        )
        if not fits or message.num_classes != spec.num_classes:
            raise FrameError(
                f"frame: device {device} sent activations of shape {list(shape)} in "
                f"{message.num_classes} classes, which do not fit the model at cut "
                f"{decision.cut}: run the same job on both sides"
            )
        return message

    def _tokens(self, decision: Decision) -> int:
        """Tokens of a sample that cross the cut; of a text at most."""
        spec = self.model.spec
        whole = spec.tokens_at(decision.cut)
        if decision.tokens is None or decision.tokens >= whole - spec.prefix:
            return whole
        # One token may stand for all that were not kept.
        return spec.prefix + decision.tokens + (self.job.method.tokens.rest == "merge")

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
        self, messages: Sequence[ActivationsMessage], done: Stepped
    ) -> tuple[Sequence[ActivationsMessage], Sequence[torch.Tensor | None]]:
        """Forward and backward of those whose loss is a number; the gradients that are wanted."""
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
        losses = {m.device: part.item() for m, part in zip(messages, parts, strict=True)}
        found = self._faults(messages, losses)
        if found:
            # The pass mixes devices: have it again without those.
            done.faults |= found
            left = [message for message in messages if message.device not in found]
            return self._train(left, done) if left else ([], [])
        before = self._gradients(messages)
        torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
        bad = self._unsound(messages, hidden.grad)
        if bad:
            for tensor, gradient in before:
                tensor.grad = gradient
            return self._train_without(bad, messages, done)
        done.losses |= losses
        for message in messages:
            self._training[message.device].contributions += 1
            self.seen[message.device] += len(message.labels)
        if not wanted:
            return messages, [None] * len(messages)
        assert hidden.grad is not None
        sizes = [len(message.labels) for message in messages]
        return messages, torch.split(hidden.grad, sizes)

    def _faults(
        self, messages: Sequence[ActivationsMessage], losses: Mapping[int, float]
    ) -> dict[int, CutlayerError]:
        found: dict[int, CutlayerError] = {}
        for message in messages:
            device = message.device
            try:
                check_finite(losses[device], device, message.round, message.step)
            except RunError as fault:
                found[device] = fault
        return found

    def _gradients(
        self, messages: Sequence[ActivationsMessage]
    ) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """The tensors that a pass of `messages` trains, with a copy of their gradients so far."""
        adapters = {id(t): t.adapter for t in (self._training[m.device] for m in messages)}
        tensors = [tensor for adapter in adapters.values() for tensor in adapter.values()]
        return [(t, None if t.grad is None else t.grad.clone()) for t in tensors]

    def _unsound(
        self, messages: Sequence[ActivationsMessage], gradient: torch.Tensor | None
    ) -> set[int]:
        """The devices whose batch leaves a gradient that is not finite, though its loss is.

        In an adapter that several train it is that of all of them, unless the gradients of their
        activations tell whose it is.
        """
        bad = {
            m.device
            for m in messages
            if any(
                t.grad is not None and not torch.isfinite(t.grad).all()
                for t in self._training[m.device].adapter.values()
            )
        }
        if gradient is None:
            return bad
        parts = torch.split(gradient, [len(m.labels) for m in messages])
        pairs = zip(messages, parts, strict=True)
        own = {m.device for m, part in pairs if not torch.isfinite(part).all()}
        return own if own and self.job.method.server_adapter == "shared" else bad | own

    def _train_without(
        self, bad: set[int], messages: Sequence[ActivationsMessage], done: Stepped
    ) -> tuple[Sequence[ActivationsMessage], Sequence[torch.Tensor | None]]:
        """The pass again: without the devices in `bad`, or one by one where those are all."""
        if len(messages) > 1 and len(bad) == len(messages):
            passes = [self._train([message], done) for message in messages]
        else:
            for m in messages:
                if m.device in bad:
                    done.faults[m.device] = RunError(
                        f"training: the gradient of device {m.device} is not finite in round "
                        f"{m.round}, step {m.step}: lower training.lr"
                    )
            left = [message for message in messages if message.device not in bad]
            passes = [self._train(left, done)] if left else []
        trained = [message for some, _ in passes for message in some]
        return trained, [gradient for _, some in passes for gradient in some]

    def _reply(self, message: ActivationsMessage, gradient: torch.Tensor, done: Stepped) -> None:
        """A gradient as a frame, at the bits decided for its device."""
        seed, bits = self.job.seed, self._decisions[message.device].bits_down
        device, round, step = message.device, message.round, message.step
        try:
            done.replies[device] = encode_gradient(
                GradientMessage(device, round, step, gradient, done.losses[device], message.mask),
                self.job.method.downlink.model_copy(update={"bits": bits}),
                rng=torch_rng(seed, device, round, "downlink", step),
                rotation_seed=derive(seed, "rotation"),
            )
        except RunError as fault:  # not a number, though the loss is
            done.faults[device] = fault
            del done.losses[device]

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

    def read_upload(self, device: int, frame: bytes) -> Adapter:
        """The adapter of a device's upload. Raises FrameError for any but the one due."""
        due = {name: self.adapter[name] for name in self.device_names(self._decisions[device])}
        return read_adapter(frame, device, self._round, due, self.model.compute)

    def far_updates(
        self, devices: Sequence[int], uploads: Mapping[int, Adapter]
    ) -> dict[int, FrameError]:
        """Of the devices of a round, those whose upload or server adapter will not do, and why."""
        trained = {d: self._training[d].adapter for d in devices if d in self._training}
        return far_updates(self.adapter, trained) | far_updates(self.adapter, uploads)

    def collect(self, uploads: Mapping[int, Adapter], samples: Mapping[int, float]) -> None:
        """Average the devices' uploads and their server adapters into the global adapter.

        samples: of every device that counts, its weight; uploads: of those that trained.
        """
        devices = sorted(samples)
        joined: list[Adapter] = []
        for device in devices:
            whole: Adapter = {}
            if trained := self._training.get(device):
                names = self.model.server_names(self._decisions[device].cut)
                whole |= {name: trained.adapter[name] for name in names if name in trained.adapter}
            joined.append(whole | uploads.get(device, {}))
        average = weighted_average(joined, [float(samples[device]) for device in devices])
        self.adapter = {
            name: average[name].to(tensor.device) if name in average else tensor
            for name, tensor in self.adapter.items()
        }
        self._training = {}

    def blend(self, trained: Adapter, share: float) -> None:
        """Mix in what the server trained itself: w = (1 - share) w + share trained.

        Tensors that it did not train stay.
        """
        mine = {name: self.adapter[name] for name in trained}
        other = {name: trained[name].to(tensor.device) for name, tensor in mine.items()}
        self.adapter = self.adapter | weighted_average([mine, other], [1 - share, share])
