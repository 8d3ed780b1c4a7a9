"""The last blocks of a model on devices that compute together: features in, their gradient out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cutlayer.errors import FrameError
from cutlayer.model.lora import Segment
from cutlayer.seeds import derive, torch_rng
from cutlayer.train.device import Device
from cutlayer.train.finite import not_finite
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.trained_stack import OpenRows
from cutlayer.train.u_shape import from_rows, to_rows
from cutlayer.wire.tail import (
    FeatureGradientMessage,
    FeaturesMessage,
    decode_features,
    encode_features,
)


@dataclass
class PoolTail:
    """What devices keep of a step between its exchanges, so that labels need not travel.

    goals, masks: the targets and the padding masks of each one's batch. losses: of its batch.
    gradients: of the adapters in the tail, until a step moves them; feature_gradients [n,D].
    """

    goals: dict[int, torch.Tensor] = field(default_factory=dict)
    masks: dict[int, torch.Tensor | None] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    feature_gradients: dict[int, torch.Tensor] = field(default_factory=dict)

    def keep(self, device: Device, goal: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Keep what belongs to the activations that a device sends."""
        self.goals[device.id] = goal
        self.masks[device.id] = None if mask is None else mask.cpu()

    def run(
        self,
        step: int,
        devices: Sequence[Device],
        frames: Mapping[int, bytes],
        rows: OpenRows | None,
        adapters: Sequence[Mapping[str, torch.Tensor]],
    ) -> None:
        """Forward from the features of devices to their losses, and back to the gradients.

        rows, adapters: the leaves of the step's pass, and each device's own. Raises FrameError for
        features of another batch, RunError for a loss that is not finite.
        """
        parts = [self._features(device, step, frames[device.id]) for device in devices]
        first = devices[0]
        model = first.model
        features = torch.cat(parts).to(model.compute).requires_grad_()
        masks = [mask for device in devices if (mask := self.masks[device.id]) is not None]
        route = [
            Segment(adapter, len(part), device.dropout_rng(step, "tail-dropout"))
            for device, adapter, part in zip(devices, adapters, parts, strict=True)
        ]
        mask = torch.cat(masks).to(model.compute) if masks else None
        logits = model.tail_forward(features, mask, route)
        losses = first.task.losses(logits, [self.goals[device.id] for device in devices])
        for device, value in zip(devices, losses.tolist(), strict=True):
            if not math.isfinite(value):
                raise not_finite("loss", value, device.id, device.round, step)
            self.losses[device.id] = value
        leaves = rows.leaves if rows else {}
        back, *own = torch.autograd.grad(
            losses.sum(), [features, *leaves.values()], allow_unused=True
        )
        self.gradients = {
            name: gradient
            for name, gradient in zip(leaves, own, strict=True)
            if gradient is not None
        }
        for device, part in zip(devices, torch.split(back, [len(p) for p in parts]), strict=True):
            self.feature_gradients[device.id] = to_rows(part.cpu(), self.masks[device.id])

    def _features(self, device: Device, step: int, frame: bytes) -> torch.Tensor:
        """The features [B,T,D] of a frame, zero at padding. Raises FrameError."""
        most = frame_limit(device.model, device.job.training.batch_size)
        message = decode_features(frame, max_bytes=most)
        _check_due(message, device, step)
        mask, spec = self.masks[device.id], device.model.spec
        B, D = len(self.goals[device.id]), spec.width_at(spec.end)
        T = len(message.rows) // B if mask is None else mask.shape[1]
        if mask is None and spec.tokens_at(spec.end) < T:
            T = spec.tokens_at(spec.end)  # rows of another batch, which are refused
        return from_rows(message.rows, (B, T, D), mask, "what the server made of the batch")

    def frames(self, step: int, devices: Sequence[Device]) -> list[bytes]:
        """The frame of each device's gradient in its features. Raises RunError."""
        job = devices[0].job
        messages = [
            FeatureGradientMessage(
                device.id,
                device.round,
                step,
                self.feature_gradients[device.id],
                self.losses[device.id],
            )
            for device in devices
        ]
        rngs = [
            torch_rng(job.seed, device.id, device.round, "tail-uplink", step) for device in devices
        ]
        return encode_features(
            messages, job.method.gradients_up, rngs, derive(job.seed, "rotation")
        )


def _check_due(message: FeaturesMessage, device: Device, step: int) -> None:
    if (message.device, message.round, message.step) != (device.id, device.round, step):
        raise FrameError(
            f"frame: device {device.id} got what the server made for device {message.device}, "
            f"round {message.round}, step {message.step} when that of round {device.round}, step "
            f"{step} was due: run the same cutlayer on both sides"
        )
