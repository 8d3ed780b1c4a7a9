"""The last blocks of a model on devices that compute together: takes features, gives gradients."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cutlayer.errors import FrameError
from cutlayer.model.bank import Segment
from cutlayer.seeds import derive, torch_rng
from cutlayer.train.coding import FITTING
from cutlayer.train.device import Device
from cutlayer.train.finite import not_finite
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.trained_stack import OpenRows
from cutlayer.train.u_shape import crossing_of, from_rows, row_positions, to_rows
from cutlayer.train.ways import FEATURE_GRADIENTS, FEATURES
from cutlayer.wire.codecs.quantized import QuantizedCodec
from cutlayer.wire.codecs.seam import Codec
from cutlayer.wire.tail import (
    FeatureGradientMessage,
    OpenedRows,
    encode_features,
    open_features,
    rows_of,
)
from cutlayer.wire.transfer import to_device


@dataclass
class PoolTail:
    """What devices keep of a step between its exchanges, so that labels need not be sent.

    goals, masks: the targets and the padding masks of each one's batch. crossing: which tokens of
    it cross to the tail and back, None for all. losses: of its batch. gradients: of the adapters in
    the tail, until a step moves them; feature_gradients [n,D], of tokens at these positions.
    """

    goals: dict[int, torch.Tensor] = field(default_factory=dict)
    masks: dict[int, torch.Tensor | None] = field(default_factory=dict)
    crossing: dict[int, torch.Tensor | None] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    feature_gradients: dict[int, torch.Tensor] = field(default_factory=dict)
    positions: dict[int, torch.Tensor] = field(default_factory=dict)

    def keep(self, device: Device, goal: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Keep what belongs to the activations that a device sends."""
        self.goals[device.id] = goal
        self.masks[device.id] = None if mask is None else mask.cpu()
        padding = self.masks[device.id]
        self.crossing[device.id] = crossing_of(device.job, device.task, goal, padding)

    def decode(
        self, step: int, devices: Sequence[Device], frames: Mapping[int, bytes]
    ) -> list[torch.Tensor]:
        """The features [B,T,D] of each device's frame, zero where none cross: decoded in one call.

        Raises FrameError for features of another batch.
        """
        first = devices[0]
        most = frame_limit(first.model, first.job.training.batch_size)
        opened = [open_features(frames[device.id], max_bytes=most) for device in devices]
        for device, one in zip(devices, opened, strict=True):
            _check_due(one, device, step)
        shapes = [
            self._shape(device, one.header.rows)
            for device, one in zip(devices, opened, strict=True)
        ]
        positions = [self._positions(*one) for one in zip(devices, shapes, strict=True)]
        codec = first.coding.ways.get(FEATURES.name)  # that of all of them
        decoded = rows_of(opened, positions, codec, first.model.compute)
        parts = []
        for device, shape, rows in zip(devices, shapes, decoded, strict=True):
            if isinstance(rows, FrameError):
                raise rows
            due = self.crossing[device.id]
            parts.append(from_rows(rows, shape, due, "what the server made of the batch"))
        return parts

    def run(
        self,
        step: int,
        devices: Sequence[Device],
        parts: Sequence[torch.Tensor],
        rows: OpenRows | None,
        adapters: Sequence[Mapping[str, torch.Tensor]],
    ) -> None:
        """Run forward from the devices' features to their losses, and back to the gradients.

        parts: each device's features [B,T,D]. rows: the leaves of the step's pass; adapters: each
        device's own. Raises RunError for a loss that is not finite.
        """
        first = devices[0]
        model = first.model
        features = torch.cat(list(parts)).requires_grad_()
        masks = [mask for device in devices if (mask := self.masks[device.id]) is not None]
        route = [
            Segment(adapter, len(part), device.dropout_seed(step, "tail-dropout"))
            for device, adapter, part in zip(devices, adapters, parts, strict=True)
        ]
        mask = to_device(torch.cat(masks), model.compute) if masks else None
        goals = [self.goals[device.id] for device in devices]
        logits = model.tail_forward(features, mask, route, first.task.learnt(goals))
        losses = first.task.losses(logits, goals)
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
            self.feature_gradients[device.id] = to_rows(part, self.crossing[device.id])
            self.positions[device.id] = self._positions(device, part.shape)

    def _shape(self, device: Device, rows: int) -> tuple[int, int, int]:
        """[B,T,D] of features that come in so many rows, where these are of the batch due."""
        due, spec = self.crossing[device.id], device.model.spec
        B, D = len(self.goals[device.id]), spec.width_at(spec.end)
        T = min(rows // B, spec.tokens_at(spec.end)) if due is None else due.shape[1]
        return B, T, D

    def _positions(self, device: Device, shape: Sequence[int]) -> torch.Tensor:
        """Where the tokens of features [B,T,D] stand that cross to the tail."""
        B, T, _ = shape
        selected = device.decision.tokens is not None
        prefix = device.model.spec.prefix
        return row_positions(B, T, self.crossing[device.id], prefix, selected)

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
                positions=self.positions[device.id],
            )
            for device in devices
        ]
        rngs = [
            torch_rng(job.seed, device.id, device.round, "tail-uplink", step) for device in devices
        ]
        codec: Codec | None = devices[0].coding.ways.get(FEATURE_GRADIENTS.name)
        if codec is None:
            plain = FITTING if FEATURE_GRADIENTS.is_fitted(job) else job.method.gradients_up
            codec = QuantizedCodec(plain, derive(job.seed, "rotation"))
        return encode_features(messages, codec, rngs)


def _check_due(opened: OpenedRows, device: Device, step: int) -> None:
    number, round, at = opened.due
    if opened.due != (device.id, device.round, step):
        raise FrameError(
            f"frame: device {device.id} got the features for device {number}, round {round}, step "
            f"{at} instead of those for round {device.round}, step {step}: run the same cutlayer "
            "on both sides"
        )
