"""Devices of one cut that compute together: one pass through the backbone for all of them.

Devices that share a machine (a simulator) form pools; a real device is a pool of one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from cutlayer.data.dataset import Dataset
from cutlayer.model.cut import Activations
from cutlayer.settings.method import Tokens
from cutlayer.train.device import Device
from cutlayer.train.exchange import ACTIVATIONS, BASIS, GRADIENT, LOSS, Exchange, Payload
from cutlayer.train.finite import are_finite, not_finite
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.wire.codec import decode_gradient
from cutlayer.wire.places import Places
from cutlayer.wire.tokens import select


class Pool:
    """The devices' side of each exchange of a step (see exchange.py)."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = list(devices)
        self._sent: dict[int, torch.Tensor] = {}

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
        activations = self._activations(step, batches)
        for device, batch in zip(self.devices, batches, strict=True):
            rows = slice(start, start + len(batch))
            start += len(batch)
            message = None
            if len(batch) and activations is not None:
                sent = shorten(activations, rows, device.tokens, first.model.spec.prefix)
                self._sent[device.id] = sent.hidden
                message = device.task.message(
                    device.id,
                    device.round,
                    step,
                    sent.hidden.detach(),
                    sent.mask,
                    device.task.targets(batch),
                )
                message = replace(message, places=sent.places)
            with watch.timed("wire"):
                frames.append(device.encode(step, message))
        return frames

    def _activations(self, step: int, batches: Sequence[Dataset]) -> Activations | None:
        """Of one batch of each device; None where the server holds all of their samples."""
        if not any(map(len, batches)):
            return None
        first = self.devices[0]
        selecting = any(device.decision.tokens is not None for device in self.devices)
        return first.model.device_forward(
            batch_inputs(first, batches),
            first.decision.cut,
            [device.segment(step) for device in self.devices],
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
        torch.autograd.backward(sent, gradients)
        self._sent = {}
        _update(devices, step)

    def _train_whole(self, step: int) -> list[float]:
        """One step of devices that run the whole model; returns each one's loss."""
        first = self.devices[0]
        batches = [device.batch(step) for device in self.devices]
        logits = first.model.forward(
            batch_inputs(first, batches), [device.segment(step) for device in self.devices]
        )
        losses = first.task.losses(logits, [first.task.targets(batch) for batch in batches])
        values: list[float] = losses.tolist()
        for device, value in zip(self.devices, values, strict=True):
            if not math.isfinite(value):
                raise not_finite("loss", value, device.id, device.round, step)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        _update(self.devices, step)
        return values


def _update(devices: Sequence[Device], step: int) -> None:
    moving = [device for device in devices if device.optimizer is not None]
    gradients = [device.optimizer.gradients() for device in moving if device.optimizer]
    for device, fine in zip(moving, are_finite(gradients), strict=True):
        if not fine:
            raise not_finite("gradient", "not finite", device.id, device.round, step)
    for device in moving:
        device.update(step)


@dataclass(frozen=True, eq=False)
class Shortened:
    """What of a batch crosses the cut: hidden [b, T', D], mask [b, T'] or None, and where the
    tokens stood (None: all of them are there)."""

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
    joined: torch.Tensor | list[str]
    if isinstance(raw[0], torch.Tensor):
        joined = torch.cat([part for part in raw if isinstance(part, torch.Tensor)])
    else:
        joined = [text for part in raw for text in part]
    return {k: v.to(device.model.compute) for k, v in device.preprocess(joined).items()}
