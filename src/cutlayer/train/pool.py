"""Devices of one cut that compute together: one pass through the backbone for all of them.

Devices that share a machine (a simulator) form pools; a real device is a pool of one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from cutlayer.data.dataset import Dataset
from cutlayer.model.cut import Activations, Segment
from cutlayer.settings.method import Tokens
from cutlayer.train.device import Device, stack_adapters
from cutlayer.train.exchange import ACTIVATIONS, BASIS, GRADIENT, LOSS, Exchange, Payload
from cutlayer.train.finite import finite_rows, not_finite
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.optimizer import picked
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.train.trained_stack import OpenRows
from cutlayer.wire.codec import decode_gradient
from cutlayer.wire.places import Places
from cutlayer.wire.tokens import select


class Pool:
    """The devices' side of each exchange of a step (see exchange.py).

    devices: they have begun a round, and either share a stack or have none yet.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = list(devices)
        self._sent: dict[int, torch.Tensor] = {}
        self._rows: OpenRows | None = None
        if not any(device.stack for device in self.devices):
            stack_adapters(self.devices)

    def send(self, exchange: Exchange, step: int, watch: Stopwatch) -> list[Payload]:
        """What each device sends up in an exchange.

        Raises RunError for what is not finite.
        """
        if exchange == ACTIVATIONS:
            return list(self._forward(step, watch))
        assert exchange == LOSS
        return list(self._train_whole(step))

    def receive(
        self, exchange: Exchange, step: int, frames: Mapping[int, bytes], watch: Stopwatch
    ) -> None:
        """Take what the server sent down, by device; those without a frame do not step.

        Raises FrameError, or RunError for a gradient that is not finite.
        """
        if exchange == BASIS:
            for device in self.devices:
                if device.id in frames:
                    device.coding.learn(frames[device.id])
            return
        assert exchange == GRADIENT
        self._backward(step, frames, watch)

    def _forward(self, step: int, watch: Stopwatch) -> list[bytes]:
        """One batch of each device through its blocks, to one frame of activations a device."""
        first = self.devices[0]
        batches = [device.batch(step) for device in self.devices]
        self._sent, frames, start = {}, [], 0
        # Where the server holds all of their samples there is nothing to compute.
        inputs = batch_inputs(self.devices[0], batches) if any(map(len, batches)) else {}
        activations = self._activations(step, batches, inputs) if inputs else None
        for device, batch in zip(self.devices, batches, strict=True):
            rows = slice(start, start + len(batch))
            start += len(batch)
            message = None
            if len(batch) and activations is not None:
                sent = shorten(activations, rows, device.tokens, first.model.spec.prefix)
                self._sent[device.id] = sent.hidden
                own = {name: tensor[rows] for name, tensor in inputs.items()}
                message = device.task.message(
                    device.id,
                    device.round,
                    step,
                    sent.hidden.detach(),
                    sent.mask,
                    device.task.targets(batch, own),
                )
                message = replace(message, places=sent.places)
            with watch.timed("wire"):
                frames.append(device.encode(step, message))
        return frames

    def _activations(
        self, step: int, batches: Sequence[Dataset], inputs: dict[str, Any]
    ) -> Activations:
        """The activations at the cut of one batch of each device; `inputs` are those batches."""
        first = self.devices[0]
        selecting = any(device.decision.tokens is not None for device in self.devices)
        return first.model.device_forward(
            inputs,
            first.decision.cut,
            self._route(step, batches),
            score=first.job.method.tokens.score if selecting else None,
        )

    def _backward(self, step: int, frames: Mapping[int, bytes], watch: Stopwatch) -> None:
        """The server's gradients back through the devices' blocks, and a step of each optimiser."""
        devices = [device for device in self.devices if device.id in frames]
        sent = [self._sent[device.id] for device in devices]
        gradients = []
        for device, hidden in zip(devices, sent, strict=True):
            with watch.timed("wire"):
                most = frame_limit(device.model, device.job.training.batch_size)
                gradient = decode_gradient(frames[device.id], max_bytes=most).gradient
            gradients.append(gradient.to(hidden.device))
        self._step(devices, sent, gradients, step)
        self._sent = {}

    def _train_whole(self, step: int) -> list[float]:
        """One step of devices that run the whole model; returns each one's loss."""
        first = self.devices[0]
        batches = [device.batch(step) for device in self.devices]
        inputs = batch_inputs(first, batches)
        logits = first.model.forward(inputs, self._route(step, batches))
        goals, start = [], 0
        for batch in batches:
            own = {name: t[start : start + len(batch)] for name, t in inputs.items()}
            goals.append(first.task.targets(batch, own))
            start += len(batch)
        losses = first.task.losses(logits, goals)
        values: list[float] = losses.tolist()
        for device, value in zip(self.devices, values, strict=True):
            if not math.isfinite(value):
                raise not_finite("loss", value, device.id, device.round, step)
        self._step(self.devices, [losses.sum()], None, step)
        return values

    def _route(self, step: int, batches: Sequence[Dataset]) -> list[Segment]:
        """Each device's rows of a batch that mixes them, with its adapter."""
        stack = self.devices[0].stack
        self._rows = stack.open([device.row for device in self.devices]) if stack else None
        adapters = self._rows.rows if self._rows else [device.adapter for device in self.devices]
        return [
            Segment(adapter, len(batch), device.dropout_rng(step))
            for device, adapter, batch in zip(self.devices, adapters, batches, strict=True)
        ]

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
        rows, self._rows = self._rows, None
        stack = self.devices[0].stack
        if rows is None or stack is None:
            return
        found = torch.autograd.grad(
            outputs, list(rows.leaves.values()), gradients, allow_unused=True
        )
        places = [self.devices.index(device) for device in devices]
        own = {
            name: picked(gradient, places)
            for name, gradient in zip(rows.leaves, found, strict=True)
            if gradient is not None
        }
        fine = finite_rows(list(own.values()), len(devices))
        for device, is_fine in zip(devices, fine, strict=True):
            if not is_fine:
                raise not_finite("gradient", "not finite", device.id, device.round, step)
        stack.step([device.row for device in devices], own, step)


@dataclass(frozen=True, eq=False)
class Shortened:
    """The tokens of a batch that cross the cut: hidden [b, T', D], mask [b, T'] or None, and
    where the tokens stood (None: all of them are there)."""

    hidden: torch.Tensor
    mask: torch.Tensor | None
    places: Places | None


def shorten(activations: Activations, rows: slice, tokens: Tokens, prefix: int) -> Shortened:
    """The tokens of some rows that cross the cut."""
    hidden, mask = activations.hidden[rows], activations.mask
    mask = mask[rows] if mask is not None else None
    if activations.scores is None:
        return Shortened(hidden, mask, None)
    scores = activations.scores[rows]
    chosen = select(hidden, scores, prefix, tokens, mask)
    candidates, places = scores.shape[1], None
    if tokens.keep is not None and tokens.keep < candidates:
        places = Places(chosen.kept.cpu(), candidates, tokens.rest == "merge")
    return Shortened(chosen.hidden, chosen.mask, places)


def batch_inputs(device: Device, batches: Sequence[Dataset]) -> dict[str, torch.Tensor]:
    """Several batches as one, ready for the model."""
    raw = [batch.inputs for batch in batches]
    joined: torch.Tensor | list[Any]
    if isinstance(raw[0], torch.Tensor):
        joined = torch.cat([part for part in raw if isinstance(part, torch.Tensor)])
    else:
        joined = [text for part in raw for text in part]  # of one kind: texts or passages
    return {k: v.to(device.model.compute) for k, v in device.preprocess(joined).items()}
