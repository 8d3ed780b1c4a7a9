"""The server's side of the steps of a round: it trains the blocks after the cut and the head."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import cast

import torch

from cutlayer.allocate.decision import Decision
from cutlayer.errors import CutlayerError, FrameError, RunError
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter, Segment
from cutlayer.seeds import torch_rng
from cutlayer.train.batches import joined
from cutlayer.train.exchange import (
    ACTIVATIONS,
    BASIS,
    GRADIENT,
    LOSS,
    Exchange,
    Payload,
    step_exchanges,
)
from cutlayer.train.finite import not_finite
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.server_adapters import ServerAdapters, ServerPass
from cutlayer.train.server_coding import ServerCoding
from cutlayer.train.server_frames import Answer, check_activations, gradient_frames, read_visit
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.train.task import Task
from cutlayer.wire.codecs.seam import Codec
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.opened import Opened, activations_of, open_activations
from cutlayer.wire.transfer import to_device

Faults = dict[int, CutlayerError]


@dataclass
class PoolStep:
    """The results so far of one step of the devices of a pool.

    losses: mean loss of each device's batch. computed: how many samples of each batch were sent,
    if the others were only named. replies: the frames to send down.
    """

    step: int
    losses: dict[int, float] = field(default_factory=dict)
    computed: dict[int, int] = field(default_factory=dict)
    replies: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """An opened frame of activations. frame: its bytes if it came now, None if it was held. sample:
    the number of the sample in the device's data, if the frame is of a single one."""

    opened: Opened
    frame: bytes | None
    sample: int | None = None


class ServerPart:
    """What the server does in the steps of one round, or of one turn of it.

    start: the global adapter. decisions, steps: of the devices that have started. coding: the codec
    of their activations. bare: how many first blocks carry no adapter. seen: how many samples of
    each device were trained on in all epochs (for language models: tokens to be predicted).
    clipped_tokens: how many tokens of each device were scaled down (trust.clip_activations).
    """

    def __init__(
        self,
        job: Job,
        model: CutModel,
        task: Task,
        start: Adapter,
        round: int,
        decisions: Mapping[int, Decision],
        steps: Mapping[int, int],
        coding: ServerCoding,
        bare: int = 0,
    ) -> None:
        self._job, self._model, self._task, self._coding = job, model, task, coding
        self._round = round
        self.decisions = dict(decisions)
        self.adapters = ServerAdapters(job, model, start, round, self.decisions, steps, bare)
        self._most_bytes = frame_limit(model, job.training.batch_size)
        self.seen = dict.fromkeys(self.decisions, 0)
        self.clipped_tokens: dict[int, int] = {}

    def exchanges(self, device: int, step: int) -> tuple[Exchange, ...]:
        """The exchanges of a step of a device."""
        cut = self.decisions[device].cut
        fits = 0 < self._coding.plain_steps(cut) == step
        return step_exchanges(self._job.method, self._model, cut, fits)

    def take(
        self, exchange: Exchange, state: PoolStep, sent: Mapping[int, Payload], watch: Stopwatch
    ) -> Faults:
        """Process what the devices of a pool sent; returns the errors of those that fail.

        A device that sends something wrong does not change the results of the others.
        """
        if exchange == LOSS:
            state.losses |= cast(Mapping[int, float], sent)
            return {}
        assert exchange == ACTIVATIONS
        return self._step(state, cast(Mapping[int, bytes], sent), watch)

    def give(self, exchange: Exchange, state: PoolStep, devices: Sequence[int]) -> dict[int, bytes]:
        """The frames that go down to the devices of a pool in an exchange."""
        if exchange == BASIS:
            return {device: self._coding.fit(self.decisions[device].cut) for device in devices}
        assert exchange == GRADIENT
        return state.replies

    def _step(self, state: PoolStep, frames: Mapping[int, bytes], watch: Stopwatch) -> Faults:
        """Run a pool's activations forward and backward; its devices have one cut.

        Adapters move at `update`, so pools of any size give the same step; an adapter that is
        trained in turn moves after every device.
        """
        faults: Faults = {}
        losses: dict[int, float] = {}
        for batch in self._batches(self._came(state, frames, faults, watch)):
            losses |= self._reply(state, self._train(batch, faults), faults, watch)
            if self._job.method.server_adapter == "in-turn":
                self.adapters.update(state.step)
        state.losses |= {device: losses[device] for device in frames if device in losses}
        state.replies = {d: state.replies[d] for d in frames if d in state.replies}
        return faults

    def _gradient_codec(self, device: int) -> Codec:
        return self._coding.gradients.codec(self.decisions[device])

    def _came(
        self, state: PoolStep, frames: Mapping[int, bytes], faults: Faults, watch: Stopwatch
    ) -> list[ActivationsMessage]:
        """The activations that came and are valid, with their tokens bounded."""
        with watch.timed("wire"):
            return [self._bounded(one) for one in self._read(state, frames, faults)]

    def _reply(
        self,
        state: PoolStep,
        trained: Sequence[tuple[ActivationsMessage, float, torch.Tensor | None]],
        faults: Faults,
        watch: Stopwatch,
    ) -> dict[int, float]:
        """Make the frames of the gradients that go down; those of equal bits in one call.

        Returns the losses of the devices whose frame could be made.
        """
        losses = {message.device: loss for message, loss, _ in trained}
        answers = [
            Answer(message, self._gradient_codec(message.device), loss, gradient)
            for message, loss, gradient in trained
            if gradient is not None
        ]
        with watch.timed("wire"):
            replies = gradient_frames(self._job, answers)
            for answer in answers:
                device = answer.answered.device
                reply = replies[device]
                if isinstance(reply, RunError):  # it does not fit into the downlink's bits
                    faults[device] = reply
                    del losses[device]
                    continue
                state.replies[device] = reply
                place = (self.decisions[device].cut, device)
                mask = answer.answered.mask
                self._coding.gradients.note(*place, answer.gradient, mask, reply)
        return losses

    def _read(
        self, state: PoolStep, frames: Mapping[int, bytes], faults: Faults
    ) -> list[ActivationsMessage]:
        """The activations of frames: all checked, then all decoded in one call."""
        came: dict[int, list[_Part]] = {}
        for device, frame in frames.items():
            try:
                came[device] = self._parts(device, state, frame)
            except FrameError as fault:
                faults[device] = fault
        opened = [part.opened for parts in came.values() for part in parts]
        codec = None
        if came:  # the devices of a pool have one cut
            codec = self._coding.codec(self.decisions[next(iter(came))].cut)
        decoded = iter(activations_of(opened, codec, self._model.compute))
        messages = []
        for device, parts in came.items():
            own = list(islice(decoded, len(parts)))
            try:
                messages.append(self._message(device, state, parts, own))
            except FrameError as fault:
                faults[device] = fault
        return messages

    def _parts(self, device: int, state: PoolStep, frame: bytes) -> "list[_Part]":
        """The frames of activations of a device's batch: one, or one a sample if it was a visit.

        Samples that a visit only names are those that the device sent before. Raises FrameError for
        anything but the expected batch.
        """
        if device not in self.adapters:
            raise FrameError(
                f"frame: device {device} sent activations but is not in the cohort of this round: "
                "let it join the next"
            )
        due, cut = (device, self._round, state.step), self.decisions[device].cut
        if self._coding.cache is None or state.step < self._coding.plain_steps(cut):
            return [_Part(self._check(frame, due), frame)]
        visit = read_visit(frame, due, self._job, self._most_bytes)
        parts = []
        for sample, sent in visit.frames.items():
            if sent is not None:
                parts.append(_Part(self._check(sent, due, single=True), sent, sample))
                continue
            held = self._coding.cache.find(device, sample)
            if held is None:
                raise FrameError(
                    f"frame: device {device} names its sample {sample}, which it never sent: run "
                    "the same cutlayer on both sides"
                )
            parts.append(_Part(open_activations(held), None, sample))
        return parts

    def _bounded(self, message: ActivationsMessage) -> ActivationsMessage:
        """Activations with no token longer than the job allows."""
        most = self._job.trust.clip_activations
        if most is None:
            return message
        norms = torch.linalg.vector_norm(message.hidden, dim=2, keepdim=True, dtype=torch.float64)
        longer = norms > most
        if not longer.any():
            return message
        before = self.clipped_tokens.get(message.device, 0)
        self.clipped_tokens[message.device] = before + int(longer.sum())
        scaled = message.hidden * (most / norms)
        hidden = torch.where(longer, scaled.to(message.hidden), message.hidden)
        return replace(message, hidden=hidden)

    def _check(self, frame: bytes, due: tuple[int, int, int], single: bool = False) -> Opened:
        """One frame of activations, checked. single: the frame holds one sample."""
        decision, spec = self.decisions[due[0]], self._model.spec
        return check_activations(frame, due, decision, spec, self._job, self._most_bytes, single)

    def _message(
        self,
        device: int,
        state: PoolStep,
        parts: "Sequence[_Part]",
        decoded: Sequence[ActivationsMessage | FrameError],
    ) -> ActivationsMessage:
        """A device's batch, joined from samples that came and that were held. Raises FrameError."""
        messages, decision = [], self.decisions[device]
        for part, message in zip(parts, decoded, strict=True):
            if isinstance(message, FrameError):
                raise message
            messages.append(message)
            if part.frame is not None:
                self._check_targets(message)
        for part, message in zip(parts, messages, strict=True):
            if part.frame is None:
                continue
            self._coding.note(message, part.frame, decision)
            if part.sample is not None:
                self._coding.keep(decision, device, part.sample, part.frame)
        if self._coding.cache is None:
            return messages[0]
        if parts[0].sample is None:
            state.computed[device] = len(messages[0].hidden)
            return messages[0]
        state.computed[device] = sum(part.frame is not None for part in parts)
        return joined(messages, (device, self._round, state.step))

    def _check_targets(self, message: ActivationsMessage) -> None:
        """Raise FrameError for targets of another task."""
        self._task.received(message)

    def _batches(
        self, messages: Sequence[ActivationsMessage]
    ) -> Iterator[list[ActivationsMessage]]:
        """Groups of messages that one pass takes: of one length; single ones if trained in turn."""
        if self._job.method.server_adapter == "in-turn":
            yield from ([message] for message in messages)
            return
        alike = defaultdict(list)
        for message in messages:
            alike[message.hidden.shape[1]].append(message)
        yield from alike.values()

    def _train(
        self, messages: Sequence[ActivationsMessage], faults: Faults
    ) -> list[tuple[ActivationsMessage, float, torch.Tensor | None]]:
        """Add gradients to the adapters of the devices whose loss and gradients are finite.

        Returns their messages, each with its loss and, if one is to go down, its gradient.
        """
        hidden, opened, losses = self._losses(messages)
        gradients = self._model.kept(
            gradients_of(losses.sum(), [hidden, *opened.rows.leaves.values()])
        )
        # One copy from the torch device for all: the losses, and the largest gradient.
        looked = torch.cat([losses.detach(), largest_of(gradients).to(losses).view(1)])
        *values, largest = looked.tolist()
        found: Faults = {
            message.device: not_finite("loss", value, message.device, message.round, message.step)
            for message, value in zip(messages, values, strict=True)
            if not math.isfinite(value)
        }
        if not found and not math.isfinite(largest):
            found = self._without_finite_gradients(messages)
        if found:
            # The pass mixes devices, and so may its gradients: do it again without these.
            faults |= found
            left = [message for message in messages if message.device not in found]
            return self._train(left, faults) if left else []
        for message in messages:
            self.seen[message.device] += self._task.weight(self._task.received(message))
        down, *own = gradients
        self.adapters.add(opened, own, messages[0].step)
        parts: Sequence[torch.Tensor | None] = [None] * len(messages)
        if down is not None:
            parts = torch.split(down, [len(message.hidden) for message in messages])
        return list(zip(messages, values, parts, strict=True))

    def _losses(
        self, messages: Sequence[ActivationsMessage]
    ) -> tuple[torch.Tensor, ServerPass, torch.Tensor]:
        """Run forward; returns the hidden states as a leaf, the adapters, and the losses [M]."""
        hidden, mask, opened, route = self._opened(messages)
        cut = self.decisions[messages[0].device].cut
        logits = self._model.server_forward(hidden, mask, cut, route)
        losses = self._task.losses(logits, [self._task.received(m) for m in messages])
        return hidden, opened, losses

    def _opened(
        self, messages: Sequence[ActivationsMessage]
    ) -> tuple[torch.Tensor, torch.Tensor | None, ServerPass, list[Segment]]:
        """The hidden states that came in, as a leaf, their mask, the adapters and the route."""
        hidden = torch.cat([message.hidden for message in messages])
        hidden.requires_grad_(GRADIENT in self.exchanges(messages[0].device, messages[0].step))
        masks = [message.mask for message in messages if message.mask is not None]
        mask = to_device(torch.cat(masks), self._model.compute) if masks else None
        sizes = [len(message.hidden) for message in messages]
        opened = self.adapters.open([message.device for message in messages], sizes)
        route = []
        for message, adapters in zip(messages, opened.adapters, strict=True):
            rng = None
            if self._job.model.lora.dropout:
                key = (message.device, message.round, "server-dropout", message.step)
                rng = torch_rng(self._job.seed, *key)
            size = len(message.hidden) // len(adapters)
            route += [Segment(adapter, size, rng) for adapter in adapters]
        return hidden, mask, opened, route

    def _without_finite_gradients(self, messages: Sequence[ActivationsMessage]) -> Faults:
        """Find the messages whose gradients are not finite, by trying each one alone."""
        faulty = list(messages)
        if len(messages) > 1:
            alone = [message for message in messages if not self._has_finite_gradients(message)]
            faulty = alone or faulty  # or all, if only their sum is too large
        return {
            m.device: not_finite("gradient", "not finite", m.device, m.round, m.step)
            for m in faulty
        }

    def _has_finite_gradients(self, message: ActivationsMessage) -> bool:
        hidden, opened, losses = self._losses([message])
        gradients = gradients_of(losses.sum(), [hidden, *opened.rows.leaves.values()])
        return math.isfinite(largest_of(gradients))

    def not_finite(self) -> Faults:
        """The devices whose adapter on the server is not finite at the round's end."""
        return {
            device: not_finite("server part", "not finite", device, self._round)
            for device in self.adapters.not_finite()
        }


def gradients_of(
    output: torch.Tensor, tensors: Sequence[torch.Tensor], given: torch.Tensor | None = None
) -> Sequence[torch.Tensor | None]:
    """The gradient of an output in each tensor; None for a tensor without one.

    given: the gradient in the output; not needed if the output is a single number.
    """
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    if not wanted:
        return [None] * len(tensors)
    found = iter(torch.autograd.grad(output, wanted, given, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]


def largest_of(gradients: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """The largest magnitude of all gradients; not finite if one of their values is not."""
    given = [gradient for gradient in gradients if gradient is not None]
    return torch.nn.utils.get_total_norm(given, torch.inf)
