"""Only the allocation of a job: who takes part and with what, and what a round would take.

Nothing is loaded and nothing is trained: data sizes are the fleet's (world.fleet), frames are
counted by `wire.size`, and what allocators measure comes from the job's calibration.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.allocate.round_shape import RoundShape
from cutlayer.drawing import tables
from cutlayer.drawing.tables import Column
from cutlayer.errors import AllocationError, JobError
from cutlayer.files import write_atomically
from cutlayer.job import Job, change_job
from cutlayer.model.families import describe
from cutlayer.planning import allocators
from cutlayer.planning.calibration.record import Calibration, calibration_for
from cutlayer.planning.known.planning_input import Floats, PlanningInput, RoundDecisions
from cutlayer.planning.round_timing import planned_shape
from cutlayer.planning.virtual_clock import VirtualClock
from cutlayer.record.writing import writing
from cutlayer.train.check import check
from cutlayer.train.cohort import draw_cohort
from cutlayer.world.timeline import Timeline

if TYPE_CHECKING:
    from rich.table import Table

CLASSES = 256
"""Labels are not looked at; this many classes make a label one byte."""

COLUMNS = (
    Column("device", "device", "text"),
    Column("distance_m", "away m", "count"),
    Column("cut", "cut", "count"),
    Column("tokens", "tokens", "count"),
    Column("bits", "bits", "count"),
    Column("bandwidth_mhz", "MHz"),
    Column("power_mw", "mW", "count"),
    Column("megabit_s", "Mbit/s"),
    Column("sent", "up", "bytes"),
    Column("finish_s", "done", "seconds"),
    Column("joules", "J"),
)
SWEEP_COLUMNS = (
    Column("value", "value", "text"),
    Column("devices", "devices", "count"),
    Column("round_s", "round", "seconds"),
    Column("joules", "devices J"),
    Column("sent", "up", "bytes"),
    Column("ste", "STE 1/s"),
    Column("tokens", "mean tokens"),
    Column("bits", "mean bits"),
    Column("cut", "mean cut"),
)


@dataclass(frozen=True, eq=False)
class Plan:
    """A round as it would be: decisions, when each stage would happen, and each device's joules.

    timeline is by device in the order of decided.decisions. late: devices that miss the deadline,
    or leave coverage before they are done.
    """

    job: Job
    known: PlanningInput
    decided: RoundDecisions
    shape: RoundShape
    timeline: Timeline
    joules: dict[int, float]
    late: list[int]

    @property
    def round_s(self) -> float:
        """Seconds of the round."""
        return self.timeline.duration_s

    def table(self) -> Table:
        """The rows for a terminal of 80 columns."""
        return tables.render(self.rows(), COLUMNS, f"Round of {self.job.method.name}")

    def rows(self) -> list[dict[str, Any]]:
        """A row for each device that takes part, for `report.tables` (see COLUMNS)."""
        most = self.known.loads.spec.patches
        rows = []
        for place, (device, one) in enumerate(self.decided.decisions.items()):
            here = self.known.devices.index(device)
            width, power = one.bandwidth_hz or 0.0, one.power_w or 0.0
            radio, gain = self.known.world.radio, self.known.gain[here]
            rows.append(
                {
                    "device": str(device),
                    "distance_m": float(self.known.state.distance_m[here]),
                    "cut": one.cut if self.job.method.split else None,
                    "tokens": one.keep(most) if self.job.method.split else None,
                    "bits": one.bits_up if self.job.method.split else None,
                    "bandwidth_mhz": width / 1e6,
                    "power_mw": power * 1e3,
                    "megabit_s": float(radio.rate_bps(width, power, gain)) / 1e6,
                    "sent": self.shape.traffic[device].up,
                    "finish_s": float(self.timeline.finish_s[place]),
                    "joules": self.joules[device],
                }
            )
        return sorted(rows, key=lambda row: int(row["device"]))

    def summary(self) -> dict[str, Any]:
        """One row for a sweep (see SWEEP_COLUMNS)."""
        rows = self.rows()
        return {
            "devices": len(rows),
            "round_s": self.round_s,
            "joules": sum(self.joules.values()),
            "sent": sum(row["sent"] for row in rows),
            "ste": self.decided.ste,
            **{key: _mean([row[key] for row in rows]) for key in ("tokens", "bits", "cut")},
        }

    def sentences(self) -> list[str]:
        """What the plan comes to, for people."""
        used = sum(one.bandwidth_hz or 0.0 for one in self.decided.decisions.values())
        if self.known.turns:
            used = self.known.bandwidth_hz
        lines = [
            f"{len(self.decided.decisions)} of {len(self.known.devices)} devices take part; "
            f"a round takes {self.round_s:.4g} s, {sum(self.joules.values()):.4g} J and "
            f"{sum(t.up for t in self.shape.traffic.values()) / 1e6:.4g} MB up; "
            f"{used / 1e6:.4g} of {self.known.bandwidth_hz / 1e6:.4g} MHz are used"
        ]
        if self.decided.ste is not None:
            bound = self.decided.ste_bound
            most = f", of at most {bound:.4g}" if bound is not None else ""
            lines.append(f"semantic transmission efficiency {self.decided.ste:.4g} 1/s{most}")
        if self.decided.note:
            lines.append(f"{self.job.method.allocation.solver}: {self.decided.note}")
        reasons: dict[str, list[int]] = {}
        for device, why in sorted(self.decided.left_out.items()):
            reasons.setdefault(why, []).append(device)
        for why, devices in reasons.items():
            lines.append(f"left out {', '.join(map(str, devices))}: {why}")
        return lines


def plan(job: Job, *, round: int = 0) -> Plan:
    """Solve the allocation of one round of `job` without training anything.

    Raises JobError, ModelError, WorldError or AllocationError, each with one sentence.
    """
    if job.world is None:
        raise JobError("world: a plan needs one: add a world section (--set world={} for defaults)")
    if job.method.pooled:
        raise JobError(f"method.name: {job.method.name!r} has no devices to plan for")
    spec = describe(job.model)
    check(job, spec)
    clock = VirtualClock(job, spec)
    cohort, away = clock.reachable(round, draw_cohort(job, round))
    sizes = clock.world.fleet.data_size
    samples = {device: int(sizes[device]) for device in cohort}
    now = clock.planning_input(round, samples, CLASSES, StatisticsFromCalibration(job))
    decided = allocators.find_allocator(job.method.allocation.solver)(now)
    decided = replace(decided, left_out=away | decided.left_out)
    if not decided.decisions:
        device, reason = next(iter(decided.left_out.items()))
        raise AllocationError(f"no device can take part; device {device}: {reason}")
    shape = planned_shape(round, now, decided)
    timed = clock.timed(shape)
    timeline = timed.timeline()
    decided = replace(decided, planned_s=timeline.duration_s)
    return Plan(job, now, decided, shape, timeline, timed.joules(timeline), timed.late(timeline))


def in_a_world(job: Job) -> Job:
    """The job, in the default world where it names none: a plan is nothing without one."""
    return job if job.world is not None else change_job(job, ["world={}"])


def sweep(job: Job, *, setting: str) -> list[dict[str, Any]]:
    """Plans of `job` for each value of `section.field=a,b,c`: rows for SWEEP_COLUMNS.

    A value without a plan has a row that says why. Raises JobError for a setting that is none.
    """
    field, equals, values = setting.partition("=")
    if not equals or not values:
        raise JobError(
            f"--sweep: {setting!r} is not section.field=value,value, as in "
            "world.bandwidth_hz=10e6,20e6"
        )
    rows = []
    for value in values.split(","):
        row: dict[str, Any] = {"field": field, "value": value.strip(), "why": ""}
        changed = change_job(job, [f"{field}={value}"])
        try:
            row |= plan(changed).summary()
        except AllocationError as error:
            row["why"] = str(error)
        rows.append(row)
    return rows


def sweep_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows of a sweep for a terminal; reasons in place of a plan stand in their row."""
    shown = [{**row, "value": f"{row['value']} {row['why']}".strip()} for row in rows]
    return tables.render(shown, SWEEP_COLUMNS, rows[0]["field"])


def write_plan(found: Plan, folder: Path) -> list[Path]:
    """Write plan.csv and pictures of the round and of who got what; returns their paths."""
    from cutlayer.drawing import plan_plots

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write_csv(found.rows(), COLUMNS, folder / "plan.csv")
        plan_plots.gantt(found.timeline, list(found.decided.decisions), folder / "round.png")
        plan_plots.shares(found.rows(), folder / "shares.png")
    return [folder / name for name in ("plan.csv", "round.png", "shares.png")]


def write_sweep(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Write sweep.csv and the curves of a sweep; returns their paths."""
    from cutlayer.drawing import plan_plots

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write_csv(rows, (*SWEEP_COLUMNS, Column("why", "why", "text")), folder / "sweep.csv")
        plan_plots.sweep(rows, folder / "sweep.png")
    return [folder / name for name in ("sweep.csv", "sweep.png")]


def _write_csv(rows: Sequence[dict[str, Any]], columns: Sequence[Column], path: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.key for column in columns], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


class StatisticsFromCalibration:
    """Measures as the job's calibration has them, alike for every device (see Measures)."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def importance(self, devices: Sequence[int], cut: int) -> Floats:
        """See Measures. Raises AllocationError for a cut that was not calibrated."""
        curves = self._record(exact=False).importance
        return np.tile(self._at(curves, cut), (len(devices), 1))

    def spread(self, devices: Sequence[int], cut: int) -> tuple[Floats, Floats]:
        """See Measures. Raises AllocationError for a cut that was not calibrated."""
        record = self._record(exact=False)
        spread, square = self._at(record.range_16, cut), self._at(record.mean_square, cut)
        return np.full(len(devices), spread), np.full(len(devices), square)

    def calibration(self) -> Calibration:
        """See Measures."""
        return self._record(exact=True)

    def _record(self, exact: bool) -> Calibration:
        found = calibration_for(self.job, exact=exact)
        if found is None:
            raise AllocationError(
                f"method.allocation.solver: {self.job.method.allocation.solver!r} goes by what "
                "was measured, and this model and data never were: run cutlayer calibrate with "
                "this job first"
            )
        return found

    def _at(self, by_cut: dict[int, Any], cut: int) -> Any:
        if cut not in by_cut:
            raise AllocationError(
                f"model.cut: {cut} was not calibrated, only {', '.join(map(str, by_cut))}: run "
                "cutlayer calibrate with this job, or take one of these"
            )
        return by_cut[cut]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
