"""The server's side of the steps of a round: it trains the blocks after the cut and the head."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch

from cutlayer.allocate.decision import Decision
from cutlayer.errors import RunError
from cutlayer.job import Job
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter
from cutlayer.seeds import derive
from cutlayer.train.exchange import (
    ACTIVATIONS,
    BASIS,
    GRADIENT,
    LOSS,
    Exchange,
    Payload,
    step_exchanges,
)
from cutlayer.train.finite import largest_of, not_finite
from cutlayer.train.server_adapters import ServerAdapters, ServerPass
from cutlayer.train.server_coding import ServerCoding
from cutlayer.train.server_frames import Answer, gradient_frames
from cutlayer.train.server_reading import ActivationReader, Faults
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.train.task import Task
from cutlayer.train.ways import GRADIENTS
from cutlayer.wire.codecs.seam import Codec
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.transfer import to_device


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


class ServerPart:
    """What the server does in the steps of one round, or of one turn of it.

    start: the global adapter. decisions, steps: of the devices that have started. coding: how their
    activations come. bare: the first blocks that carry no adapter. seen: the samples of each (of
    language models: the tokens to be said) that were trained on, in all epochs.
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
        self._reader = ActivationReader(
            job, model, coding, round, self.decisions, self._check_targets
        )
        self.seen = dict.fromkeys(self.decisions, 0)

    @property
    def clipped_tokens(self) -> dict[int, int]:
        """Of each device, the tokens that were scaled down (trust.clip_activations)."""
        return self._reader.clipped_tokens

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
        return self._coding.ways[GRADIENTS].codec(self.decisions[device])

    def _came(
        self, state: PoolStep, frames: Mapping[int, bytes], faults: Faults, watch: Stopwatch
    ) -> list[ActivationsMessage]:
        """The activations that came and are valid, with their tokens bounded."""
        with watch.timed("wire"):
            return self._reader.read(state.step, frames, faults, state.computed)

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
                decision, mask = self.decisions[device], answer.answered.mask
                self._coding.ways[GRADIENTS].note(decision, device, answer.gradient, mask, reply)
        return losses

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
        goals = [self._task.received(message) for message in messages]
        logits = self._model.server_forward(hidden, mask, cut, route, self._task.learnt(goals))
        return hidden, opened, self._task.losses(logits, goals)

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
            seed = None
            if self._job.model.lora.dropout:
                key = (message.device, message.round, "server-dropout", message.step)
                seed = derive(self._job.seed, *key)
            size = len(message.hidden) // len(adapters)
            route += [
                Segment(adapter, size, seed, number * size)
                for number, adapter in enumerate(adapters)
            ]
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
