"""Checks of an adapter that a device sends up: its names and shapes, and how far it moved."""

import math
import statistics
from collections.abc import Mapping

import torch

from cutlayer.errors import FrameError
from cutlayer.model.lora import Adapter
from cutlayer.train.compute import float64
from cutlayer.wire.adapter_frames import decode_adapter

MOST_OF_MEDIAN = 1000.0
"""An update that moves by more than this many times the median of its cohort is refused."""


def read_adapter(
    frame: bytes, device: int, round: int, due: Adapter, compute: torch.device
) -> Adapter:
    """The adapter of a device's upload, with the names and shapes of `due`.

    Raises FrameError for any other adapter.
    """
    # Values take at most a float32 each; names and shapes are small beside them.
    most = 4 * sum(tensor.numel() for tensor in due.values()) + 2**17
    message = decode_adapter(frame, max_bytes=most, device=compute)
    shapes = {name: tensor.shape for name, tensor in message.tensors.items()}
    if (message.device, message.round) != (device, round) or shapes != {
        name: tensor.shape for name, tensor in due.items()
    }:
        raise FrameError(
            f"frame: device {device} sent another adapter than the one it was to train in "
            f"round {round}: run the same job on both sides"
        )
    return message.tensors


def far_updates(
    start: Adapter, trained: Mapping[int, Adapter], apart: bool = False
) -> dict[int, FrameError]:
    """The devices whose adapter is not finite, or moved far more than the others of the cohort.

    start: the adapter that all began with; a device's may hold only some of its tensors. A single
    device cannot be compared with others. apart: look only for adapters that are not finite.
    """
    moved = {device: _distance(start, adapter) for device, adapter in trained.items()}
    faults = {
        device: FrameError(
            f"adapter: the adapter of device {device} is not finite: lower training.lr"
        )
        for device, distance in moved.items()
        if not math.isfinite(distance)
    }
    if apart:
        return faults
    sound = {device: distance for device, distance in moved.items() if device not in faults}
    median = statistics.median_low(sound.values()) if sound else 0.0
    for device, distance in sound.items():
        if distance > MOST_OF_MEDIAN * median > 0:
            faults[device] = FrameError(
                f"adapter: the adapter of device {device} moved by {distance:.3g}, more than "
                f"{MOST_OF_MEDIAN:g} times its cohort's median of {median:.3g}: it is refused"
            )
    return faults


def _distance(start: Adapter, adapter: Adapter) -> float:
    """The Euclidean norm of a change; NaN or infinite if a value is."""
    squares = 0.0
    for name, tensor in adapter.items():
        moved = float64(tensor) - float64(start[name])
        squares += moved.square().sum().item()
    return math.sqrt(squares)
