"""Who takes part in a round, and with what: asks the job's allocator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.allocate.decision import base_decision
from cutlayer.allocate.round_shape import RoundShape
from cutlayer.errors import AllocationError
from cutlayer.job import Job
from cutlayer.planning import allocators
from cutlayer.planning.calibration.record import Calibration
from cutlayer.planning.check_decisions import check_decisions
from cutlayer.planning.known.planning_input import (
    Floats,
    PlanningInput,
    PlanningSource,
    RoundDecisions,
)
from cutlayer.planning.round_timing import planned_shape
from cutlayer.planning.token_efficiency import token_efficiency
from cutlayer.settings.precision import Precision

if TYPE_CHECKING:
    from cutlayer.train.activation_summary import ActivationStatistics
    from cutlayer.train.label_sharing import SharedLabels
    from cutlayer.train.link import Link


_SILENT = "it did not say what its activations are like"


def decide(
    job: Job,
    round: int,
    samples: Mapping[int, int],
    classes: int,
    link: Link,
    planning_source: PlanningSource | None,
    calibrations: Mapping[Precision, Calibration] | None = None,
    labels: SharedLabels | None = None,
    importance: Mapping[int, Floats] | None = None,
) -> RoundDecisions:
    """The decisions of a round.

    samples: the number of samples in one epoch of each device that could take part, in the order
    in which devices take turns. planning_source: what is known of devices and radio; None without
    a world. calibrations: for allocators that choose by measured quality, by the precision of the
    devices. labels: the labels that devices shared, for allocators that choose by them.
    importance: by cut, what a calibration knows of the importance of tokens (see Measures); the
    round's STE goes by it where devices measured nothing. Raises AllocationError if no device can
    take part; its sentence names the limit in the way.
    """
    if planning_source is None or job.method.pooled:
        return RoundDecisions(dict.fromkeys(samples, base_decision(job)))
    measures = StatisticsFromDevices(job, round, link, calibrations or {}, importance or {})
    there, silent = dict(samples), dict[int, str]()
    while True:
        known = planning_source.planning_input(round, there, classes, measures)
        if labels is not None:
            known = replace(known, label_emd=labels.distances(known.devices))
        if len(job.method.allocation.precisions) > 1:
            known = replace(known, in_float32=link.in_float32)
        try:
            decided = solve_round(round, known, planning_source)
        except _SilentDevicesError as found:  # plan again without these devices
            silent |= dict.fromkeys(found.devices, _SILENT)
            there = {d: count for d, count in there.items() if d not in silent}
        else:
            return replace(decided, left_out=silent | decided.left_out)


def solve_round(
    round: int, known: PlanningInput, planning_source: PlanningSource
) -> RoundDecisions:
    """The decisions of the job's allocator, with what they are expected to come to.

    Raises AllocationError as `allocate_round` does.
    """
    decided = allocate_round(round, known)
    shape = planned_shape(round, known, decided, known.visited)
    return with_expected(known, decided, shape, planning_source.planned_s(known, shape))


def allocate_round(round: int, known: PlanningInput) -> RoundDecisions:
    """The decisions of the job's allocator, in the order of the known devices.

    Raises AllocationError if no device can take part, naming the limit in the way, and for
    decisions that cannot be carried out.
    """
    decided = allocators.find_allocator(known.job.method.allocation.solver)(known)
    check_decisions(known, decided)
    if not decided.decisions:
        device, reason = next(iter(decided.left_out.items()))
        raise AllocationError(
            f"no device can take part in round {round + 1}: device {device}: {reason}"
        )
    ordered = {d: decided.decisions[d] for d in known.devices if d in decided.decisions}
    return replace(decided, decisions=ordered)


def with_expected(
    known: PlanningInput, decided: RoundDecisions, shape: RoundShape, seconds: float
) -> RoundDecisions:
    """The decisions with the round's expected seconds, and its STE where that can be known.

    An allocator that aims at STE gives its own, which its bound is for.
    """
    return replace(
        decided,
        planned_s=seconds if np.isfinite(seconds) else None,
        ste=token_efficiency(known, shape) if decided.ste is None else decided.ste,
    )


class _SilentDevicesError(Exception):
    """Devices that gave no answer, or no valid one, when asked what their activations are like."""

    def __init__(self, devices: Sequence[int]) -> None:
        super().__init__(f"devices {list(devices)}")
        self.devices = devices


class StatisticsFromDevices:
    """Statistics measured on the devices of a round, when first asked for (see Measures)."""

    def __init__(
        self,
        job: Job,
        round: int,
        link: Link,
        calibrations: Mapping[Precision, Calibration],
        importance: Mapping[int, Floats],
    ) -> None:
        self.job = job
        self.round = round
        self.link = link
        self._calibrations = calibrations
        self._importance = importance
        self._found: dict[tuple[int, bool, int], ActivationStatistics] = {}

    def importance(self, devices: Sequence[int], cut: int) -> Floats:
        """See Measures. Raises AllocationError at cut 0, where no block scores tokens."""
        if cut == 0:
            raise AllocationError(
                "model.cut: 0 leaves no block on the device to score tokens with: take model.cut "
                "of 1 or more, or another method.allocation.solver"
            )
        found = self._measured(devices, cut, scored=True)
        return np.stack([one.importance for one in found if one.importance is not None])

    def importance_at_hand(self, devices: Sequence[int], cut: int) -> Floats | None:
        """See Measures: what these devices measured, else what a calibration did."""
        found = [self._found.get((cut, True, device)) for device in devices]
        curves = [one.importance for one in found if one and one.importance is not None]
        if len(curves) == len(devices):
            return np.stack(curves)
        curve = self._importance.get(cut)
        return None if curve is None else np.broadcast_to(curve, (len(devices), len(curve)))

    def spread(self, devices: Sequence[int], cut: int) -> tuple[Floats, Floats]:
        """See Measures."""
        found = self._measured(devices, cut, scored=False)
        return np.array([m.spread for m in found]), np.array([m.mean_square for m in found])

    def calibration(self, precision: Precision = "float32") -> Calibration:
        """See Measures."""
        if precision not in self._calibrations:
            raise AllocationError(
                "method.allocation: nothing was calibrated for this model and data: run "
                "cutlayer calibrate with this job first"
            )
        return self._calibrations[precision]

    def _measured(
        self, devices: Sequence[int], cut: int, scored: bool
    ) -> list[ActivationStatistics]:
        """Statistics of each device. Raises _SilentDevicesError for those that gave none."""
        missing = [device for device in devices if (cut, scored, device) not in self._found]
        if missing:
            found = self.link.measure(self.round, missing, cut, scored)
            self._found |= {(cut, scored, device): one for device, one in found.items()}
        silent = [device for device in devices if (cut, scored, device) not in self._found]
        if len(silent) == len(devices):
            raise AllocationError("no device answered when asked for statistics of its activations")
        if silent:
            raise _SilentDevicesError(silent)
        return [self._found[cut, scored, device] for device in devices]
