"""What a round takes and when it happened: durations in, a timeline out, all in seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from cutlayer.errors import WorldError
from cutlayer.world.units import Array, Flags, Indices, array

Stage = Literal[
    "broadcast", "forward", "uplink", "server", "tail_downlink", "tail", "tail_uplink",
    "server_backward", "downlink", "backward", "upload", "aggregation",
]  # fmt: skip
STAGES: tuple[Stage, ...] = get_args(Stage)
TAIL_STAGES: tuple[Stage, ...] = ("tail_downlink", "tail", "tail_uplink", "server_backward")
"""Stages of a step where the model's last blocks are on devices."""
STEP_STAGES: tuple[Stage, ...] = (
    "forward", "uplink", "server", *TAIL_STAGES, "downlink", "backward",
)  # fmt: skip


@dataclass(frozen=True)
class Durations:
    """What each stage takes on each of M devices, arrays [M] in seconds.

    forward_s to backward_s are [S, M], one row a step (S: most steps of any device), since the last
    batch of an epoch is smaller. upload_s: of the adapter. steps: of each device, int [M], 1 or
    more. tail_downlink_s to server_backward_s: only where the last blocks are on devices
    (has_tail): hidden states down, forward and backward pass there, gradient up, and the server's
    backward pass, which is otherwise in server_s.
    one_way: no gradient returns, so downlink and backward do not take place.
    Infinity: the stage never ends (a rate of 0). Build it with `durations`.
    """

    broadcast_s: Array
    forward_s: Array
    uplink_s: Array
    server_s: Array
    downlink_s: Array
    backward_s: Array
    upload_s: Array
    tail_downlink_s: Array
    tail_s: Array
    tail_uplink_s: Array
    server_backward_s: Array
    steps: Indices
    aggregation_s: float
    one_way: bool
    has_tail: bool


class Span(NamedTuple):
    """One stage of one device, for pictures."""

    stage: Stage
    step: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Timeline:
    """A round of M devices.

    start_s, end_s: by stage, [S, M] for the stages of a step (S: most steps of any device)
    and [1, M] for broadcast, upload and aggregation; NaN where a stage did not take place.
    finish_s: [M] when the last stage of a device ended; infinite if it never did.
    late: [M] whether a device finished after the deadline or never, so that it is not averaged.
    duration_s: of the round, aggregation included. The server waits for the last device; if
    devices are late, until the deadline (without a deadline: for ever).
    """

    start_s: dict[Stage, Array]
    end_s: dict[Stage, Array]
    finish_s: Array
    late: Flags
    duration_s: float

    def busy_s(self, stage: Stage) -> Array:
        """Seconds each device spent in a stage, all steps together [M]."""
        with np.errstate(invalid="ignore"):  # a stage that never starts never ends
            return array(np.nansum(self.end_s[stage] - self.start_s[stage], axis=0))

    def spans(self, device: int) -> list[Span]:
        """The stages of a device that took place and took time, by start."""
        found = [
            Span(stage, step, float(start), float(end))
            for stage in STAGES
            for step, (start, end) in enumerate(
                zip(self.start_s[stage][:, device], self.end_s[stage][:, device], strict=True)
            )
            if end > start
        ]
        return sorted(found, key=lambda span: (span.start_s, span.end_s))

    def stage_rows(self, devices: Sequence[int]) -> list[dict[str, Any]]:
        """A row for each stage of each device: device, stage, step, start_s, end_s.

        devices: the numbers of the first so many of the timeline. Stages that never end are left
        out.
        """
        return [
            {"device": device, **span._asdict()}
            for place, device in enumerate(devices)
            for span in self.spans(place)
            if math.isfinite(span.end_s)
        ]


def durations(
    devices: int,
    *,
    broadcast_s: npt.ArrayLike = 0.0,
    forward_s: npt.ArrayLike = 0.0,
    uplink_s: npt.ArrayLike = 0.0,
    server_s: npt.ArrayLike = 0.0,
    downlink_s: npt.ArrayLike = 0.0,
    backward_s: npt.ArrayLike = 0.0,
    upload_s: npt.ArrayLike = 0.0,
    tail_downlink_s: npt.ArrayLike = 0.0,
    tail_s: npt.ArrayLike = 0.0,
    tail_uplink_s: npt.ArrayLike = 0.0,
    server_backward_s: npt.ArrayLike = 0.0,
    steps: npt.ArrayLike = 1,
    aggregation_s: float = 0.0,
    one_way: bool = False,
    has_tail: bool = False,
) -> Durations:
    """Durations of M devices from arrays [M] or one number for all; a stage left out takes no time.

    Stages of a step (all but broadcast, upload and aggregation) may be arrays [S, M], where steps
    differ.
    Raises WorldError for a negative or undefined duration, and for a device without a step.
    """
    given = {
        "broadcast_s": broadcast_s, "forward_s": forward_s, "uplink_s": uplink_s,
        "server_s": server_s, "downlink_s": downlink_s, "backward_s": backward_s,
        "upload_s": upload_s, "tail_downlink_s": tail_downlink_s, "tail_s": tail_s,
        "tail_uplink_s": tail_uplink_s, "server_backward_s": server_backward_s,
        "aggregation_s": np.full(devices, aggregation_s),
    }  # fmt: skip
    counts = np.broadcast_to(np.asarray(steps, dtype=np.int64), (devices,))
    most = int(counts.max(initial=1))
    arrays = {}
    for name, value in given.items():
        shape = (most, devices) if name.removesuffix("_s") in STEP_STAGES else (devices,)
        spread = np.broadcast_to(array(value), shape)
        bad = ~(spread >= 0)
        if bad.any():
            at = int(np.argmax(bad))
            raise WorldError(
                f"clock: {name} of device {at % devices} is {spread.flat[at]:g}: durations are 0 "
                "or more"
            )
        arrays[name] = spread
    del arrays["aggregation_s"]
    if (counts < 1).any():
        device = int(np.argmax(counts < 1))
        raise WorldError(
            f"clock: device {device} has {counts[device]} steps: leave devices without data out"
        )
    if one_way and (arrays["downlink_s"].any() or arrays["backward_s"].any()):
        raise WorldError(
            "clock: downlink_s and backward_s take time in a one-way round: set them to 0"
        )
    return Durations(
        **arrays, steps=counts, aggregation_s=aggregation_s, one_way=one_way, has_tail=has_tail
    )
