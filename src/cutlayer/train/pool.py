"""Devices of one cut that compute together: one pass through the backbone for all of them.

Devices that share a machine (a simulator) form pools; a real device is a pool of one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

import torch

from cutlayer.data.dataset import Dataset
from cutlayer.errors import FrameError
from cutlayer.model.bank import Segment
from cutlayer.model.cut import Activations
from cutlayer.train.device import Device, stack_adapters
from cutlayer.train.device_blocks import run_in
from cutlayer.train.exchange import (
    ACTIVATIONS,
    BASIS,
    FEATURE_GRADIENT,
    FEATURES,
    GRADIENT,
    LOSS,
    Exchange,
    Payload,
    step_exchanges,
)
from cutlayer.train.finite import not_finite
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.noise import with_activation_noise
from cutlayer.train.pool_inputs import batch_inputs, open_route, targets_of
from cutlayer.train.pool_moves import move, noisy
from cutlayer.train.pool_tail import PoolTail
from cutlayer.train.shortened import Group, shorten_for_each
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.train.trained_stack import OpenRows
from cutlayer.train.u_shape import learnt_of, unlabelled
from cutlayer.train.ways import GRADIENTS
from cutlayer.wire.codec import encode_activations_with
from cutlayer.wire.codecs.seam import Codec
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.opened import gradients_of, open_gradient
from cutlayer.wire.transfer import to_host


class Pool:
    """The devices' side of each exchange of a step (see exchange.py).

    devices: they have begun a round, and share one stack or have none yet.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = list(devices)
        self._sent: list[Group] = []
        has_tail = bool(self.devices) and self.devices[0].job.has_tail
        self._tail = PoolTail() if has_tail else None
        self._rows: OpenRows | None = None
        if not any(device.stack for device in self.devices):
            stack_adapters(self.devices)

    def send(self, exchange: Exchange, step: int, watch: Stopwatch) -> list[Payload]:
        """What each device sends up in an exchange.

        Raises RunError for what is not finite.
        """
        if exchange == ACTIVATIONS:
            messages = self._forward(step)
            if self._tail is not None and self.devices[0].reuses:
                self._keep_whole(step, self._tail)
            with watch.timed("wire"):
                return list(self._encode(step, messages))
        if exchange == FEATURE_GRADIENT:
            assert self._tail is not None
            with watch.timed("wire"):
                return list(self._tail.frames(step, self.devices))
        assert exchange == LOSS
        return list(self._train_whole(step))

    def receive(
        self, exchange: Exchange, step: int, frames: Mapping[int, bytes], watch: Stopwatch
    ) -> None:
        """Take what the server sent down, by device; a device without a frame makes no step.

        Raises FrameError, or RunError for a gradient that is not finite.
        """
        if exchange == BASIS:
            for device in self.devices:
                if device.id in frames:
                    device.coding.learn(frames[device.id])
            return
        if exchange == FEATURES:
            self._run_tail(step, frames, watch)
            return
        assert exchange == GRADIENT
        with watch.timed("wire"):
            gradients = self._decode(frames)
        self._backward(step, gradients)

    def _forward(self, step: int) -> list[ActivationsMessage | None]:
        """One batch of each device through its blocks; None for one with nothing to send."""
        first = self.devices[0]
        batches = [device.batch(step) for device in self.devices]
        messages: list[ActivationsMessage | None] = [None] * len(batches)
        self._sent, self._rows, sizes = [], None, [len(batch) for batch in batches]
        # Nothing has to be computed if the server holds all samples of the step.
        if not any(sizes):
            return messages
        inputs = batch_inputs(first, batches)
        activations = self._activations(step, batches, inputs)
        goals = targets_of(first, batches, inputs)
        tokens = [device.tokens for device in self.devices]
        self._sent = shorten_for_each(activations, sizes, tokens, first.model.spec.prefix)
        for group in self._sent:
            for place, sent in zip(group.places, group.sent.split(group.sizes), strict=True):
                device = self.devices[place]
                hidden = with_activation_noise(
                    sent.hidden, device.job, device.id, device.to_compute(step)
                )
                given = (device.id, device.round, step, hidden, sent.mask)
                if self._tail is None:
                    message = device.task.message(*given, goals[place])
                else:
                    self._tail.keep(device, goals[place], sent.mask)
                    message = unlabelled(*given, learnt_of(device.job, device.task, goals[place]))
                messages[place] = replace(message, places=sent.places)
        return messages

    def _keep_whole(self, step: int, tail: PoolTail) -> None:
        """Keep the targets of whole batches, since features come also for samples that were only
        named."""
        batches = [device.whole_batch(step) for device in self.devices]
        masks: Sequence[torch.Tensor | None] = [None] * len(batches)
        inputs: Mapping[str, torch.Tensor] = {}
        if self.devices[0].model.spec.modality == "text":
            inputs = batch_inputs(self.devices[0], batches)
            mask = to_host(inputs["attention_mask"].bool())
            masks = torch.split(mask, [len(batch) for batch in batches])
        goals = targets_of(self.devices[0], batches, inputs)
        for device, goal, own in zip(self.devices, goals, masks, strict=True):
            tail.keep(device, goal, own)

    def _run_tail(self, step: int, frames: Mapping[int, bytes], watch: Stopwatch) -> None:
        """Run the server's features through the last blocks; make the step if nothing follows."""
        assert self._tail is not None
        first = self.devices[0]
        if self._rows is None and first.stack is not None:
            # Nothing was computed: the server holds all samples of the step.
            self._rows = first.stack.open([device.row for device in self.devices])
        adapters = self._rows.rows if self._rows else [device.adapter for device in self.devices]
        there = [place for place, one in enumerate(self.devices) if one.id in frames]
        devices = [self.devices[place] for place in there]
        with watch.timed("wire"):
            parts = self._tail.decode(step, devices, frames)
        self._tail.run(step, devices, parts, self._rows, [adapters[place] for place in there])
        if GRADIENT not in step_exchanges(first.job.method, first.model, first.decision.cut):
            self._move(devices, self._tail.gradients, step)

    def _encode(self, step: int, messages: Sequence[ActivationsMessage | None]) -> list[bytes]:
        """A frame for each device: those with one codec are encoded in one call."""
        due = [d.to_encode(step, one) for d, one in zip(self.devices, messages, strict=True)]
        parts = [part for one in due for part in one]
        encoded: list[list[bytes]] = [[] for _ in parts]
        alike: dict[tuple[Codec, bool], list[int]] = {}
        for place, part in enumerate(parts):
            if part.messages:
                alike.setdefault((part.codec, part.rng is None), []).append(place)
        for (codec, exact), places in alike.items():
            together = [message for place in places for message in parts[place].messages]
            rngs = None if exact else [rng for place in places if (rng := parts[place].rng)]
            frames = iter(encode_activations_with(codec, together, rngs))
            for place in places:
                encoded[place] = list(islice(frames, len(parts[place].messages)))
        rest = iter(encoded)
        return [
            device.frame(step, list(islice(rest, len(own))))
            for device, own in zip(self.devices, due, strict=True)
        ]

    def _activations(
        self, step: int, batches: Sequence[Dataset], inputs: dict[str, torch.Tensor]
    ) -> Activations:
        """The activations at the cut of one batch of each device; `inputs` are those batches."""
        first = self.devices[0]
        selecting = any(device.decision.tokens is not None for device in self.devices)
        cut, precision = first.decision.cut, first.decision.precision
        if precision != "float32":
            sizes = [len(batch) for batch in batches]
            return run_in(precision, first.blocks, cut, selecting, inputs, sizes)
        return first.model.device_forward(
            inputs,
            cut,
            self._open(step, batches),
            score=first.job.method.tokens.score if selecting else None,
        )

    def _open(self, step: int, batches: Sequence[Dataset]) -> list[Segment]:
        """Each device's rows of a batch that mixes them, with its adapter, as a leaf."""
        self._rows, route = open_route(self.devices, step, [len(batch) for batch in batches])
        return route

    def _decode(self, frames: Mapping[int, bytes]) -> dict[int, torch.Tensor]:
        """The server's gradients, by device: all decoded in one call. Raises FrameError."""
        first = self.devices[0]
        most = frame_limit(first.model, first.job.training.batch_size)
        opened = [open_gradient(frame, max_bytes=most) for frame in frames.values()]
        found = {}
        # Devices of one cut have one basis for gradients, if any.
        codec = first.coding.ways.get(GRADIENTS.name)
        messages = gradients_of(opened, codec, first.model.compute)
        for number, message in zip(frames, messages, strict=True):
            if isinstance(message, FrameError):
                raise message
            found[number] = message.gradient
        return found

    def _backward(self, step: int, gradients: Mapping[int, torch.Tensor]) -> None:
        """Run gradients back through the devices' blocks, and make a step of each optimiser."""
        given = []
        for group in self._sent:
            parts = torch.split(group.sent.hidden.detach(), group.sizes)
            own = []
            for place, part in zip(group.places, parts, strict=True):
                number = self.devices[place].id
                gradient = gradients.get(number)
                if gradient is not None and gradient.shape != part.shape:
                    raise FrameError(
                        f"frame: the gradient for device {number} has shape "
                        f"{list(gradient.shape)}, not that of its activations, "
                        f"{list(part.shape)}: run the same job on both sides"
                    )
                own.append(torch.zeros_like(part) if gradient is None else gradient)
            given.append(torch.cat(own).to(group.sent.hidden.dtype))
        outputs = [group.sent.hidden for group in self._sent]
        self._sent = []
        self._step([d for d in self.devices if d.id in gradients], outputs, given, step)

    def _train_whole(self, step: int) -> list[float]:
        """One step of devices that run the whole model; returns each one's loss."""
        first = self.devices[0]
        batches = [device.batch(step) for device in self.devices]
        inputs = batch_inputs(first, batches)
        goals = targets_of(first, batches, inputs)
        logits = first.model.forward(inputs, self._open(step, batches), first.task.learnt(goals))
        losses = first.task.losses(logits, goals)
        values: list[float] = losses.tolist()
        for device, value in zip(self.devices, values, strict=True):
            if not math.isfinite(value):
                raise not_finite("loss", value, device.id, device.round, step)
        self._step(self.devices, [losses.sum()], None, step)
        return values

    def _step(
        self,
        devices: Sequence[Device],
        outputs: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor] | None,
        step: int,
    ) -> None:
        """Take the gradients of the last pass and move the adapters of `devices` by them.

        outputs, gradients: where the backward pass begins. step: of the round.
        """
        if self._rows is None:
            return
        leaves = self._rows.leaves
        found = torch.autograd.grad(outputs, list(leaves.values()), gradients, allow_unused=True)
        given = {
            name: gradient
            for name, gradient in zip(leaves, found, strict=True)
            if gradient is not None
        }
        if self._tail is not None:
            given |= self._tail.gradients
        if self.devices[0].job.privacy.unit == "sample" and given:
            given = noisy(self.devices, given, step)
        self._move(devices, given, step)

    def _move(
        self, devices: Sequence[Device], gradients: Mapping[str, torch.Tensor], step: int
    ) -> None:
        """Move the adapters of `devices` by gradients of all devices of the pool, [m, ...] each."""
        rows, self._rows = self._rows, None
        if rows is not None:
            move(self.devices, devices, gradients, step)
