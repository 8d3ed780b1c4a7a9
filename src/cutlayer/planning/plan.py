"""The allocation of a job without training: decisions for each device, and the cost of a round.

Nothing is loaded and nothing is trained: frames are counted by `wire.frame_bytes`, and what
allocators measure comes from the job's calibration.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from cutlayer.allocate.decision import setting_of
from cutlayer.allocate.round_shape import RoundShape
from cutlayer.drawing.notebook import data_frame, paragraphs, table_html
from cutlayer.errors import JobError, RunError
from cutlayer.job import Job
from cutlayer.model.families import describe
from cutlayer.planning import plan_table
from cutlayer.planning.calibration.statistics import StatisticsFromCalibration, Survival
from cutlayer.planning.decide import allocate_round, with_expected
from cutlayer.planning.known.planning_input import PlanningInput, RoundDecisions
from cutlayer.planning.plan_samples import PlannedSamples, ReadLabels, read_labels, samples_of
from cutlayer.planning.round_timing import planned_shape
from cutlayer.planning.token_efficiency import importance_kept
from cutlayer.planning.virtual_clock import VirtualClock
from cutlayer.settings.world import WorldSettings
from cutlayer.train.check import check
from cutlayer.train.cohort import draw_cohort
from cutlayer.train.unread import unread
from cutlayer.world.timeline import Timeline

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """A round as planned: decisions, the time of each stage, and each device's joules.

    job: what was planned. known: what its allocator was told. decided: what it said. shape: steps,
    samples and bytes of each device. joules: by device.
    A notebook shows it as its sentences and the first rows of its table.

    timeline: when each stage happens, by device in the order of decided.decisions. late: devices
    that miss the deadline, or leave coverage before they are done. samples: how many samples each
    device has, and where that number comes from. survival: the share of predictions that these
    decisions leave unchanged, None where that was not calibrated. later_bytes: bytes from all
    devices in a later round with the same samples, which the server then holds; None where samples
    are sent in every round.
    """

    job: Job
    known: PlanningInput
    decided: RoundDecisions
    shape: RoundShape
    timeline: Timeline
    joules: dict[int, float]
    late: list[int]
    samples: PlannedSamples
    survival: Survival | None
    later_bytes: int | None

    def __repr__(self) -> str:
        return f"<Plan of {self.job.method.name}: {self._takes()}>"

    def _repr_html_(self) -> str:
        rows = self.rows()
        shown = table_html(rows, plan_table.columns_of(rows), f"Round of {self.job.method.name}")
        return shown + paragraphs(self.sentences())

    def to_pandas(self, what: Literal["devices", "stages"] = "devices") -> pd.DataFrame:
        """A data frame with a row for each device, or for each stage of each device.

        what: which of the two. devices: what `rows` has, by the names of plan_table.COLUMNS.
        stages: device, stage, step, and its start and end in seconds since the round began. Raises
        RunError for anything else, and where pandas is not installed.
        """
        if what == "devices":
            return data_frame(self.rows())
        if what != "stages":
            raise RunError(f"to_pandas: {what!r} is no table of a plan: take 'devices' or 'stages'")
        return data_frame(self.stages())

    def stages(self, most: int | None = None) -> list[dict[str, Any]]:
        """A row for each stage of each device: its start and end in seconds since the round began,
        and of which step (from 0) it is.

        most: of so many devices only, the first.
        """
        return self.timeline.stage_rows(list(self.decided.decisions)[:most])

    @property
    def round_s(self) -> float:
        """Seconds of the round."""
        return self.timeline.duration_s

    @property
    def sent_bytes(self) -> int:
        """Bytes from all devices to the server."""
        return sum(traffic.up for traffic in self.shape.traffic.values())

    def table(self, *, every: bool = False) -> Table:
        """A table for a terminal of 80 columns: a row for each device; of many devices, the spread.

        every: a row for each device, however many there are.
        """
        rows, title = self.rows(), f"Round of {self.job.method.name}"
        if every or len(rows) <= plan_table.MOST_SHOWN:
            return plan_table.device_table(rows, title)
        return plan_table.spread_table(rows, title)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each device that takes part, for `drawing.tables` (see plan_table.COLUMNS)."""
        several = len(self.job.method.allocation.precisions) > 1
        most, split, late = self.known.loads.spec.patches, self.job.method.split, set(self.late)
        decided = self.decided.decisions
        rates = self.known.decided_bps(decided)
        importance = importance_kept(self.known, decided) if split else None
        rows = []
        for place, (device, one) in enumerate(decided.items()):
            at = self.known.place[device]
            rows.append(
                {
                    "device": str(device),
                    "distance_m": float(self.known.state.distance_m[at]),
                    "cut": one.cut if split else None,
                    "tokens": one.keep(most) if split else None,
                    "importance": None if importance is None else float(importance[place]),
                    "bits": one.value_bits(self.job.method) if split else None,
                    **({"precision": one.precision} if several else {}),
                    "bandwidth_mhz": (one.bandwidth_hz or 0.0) / 1e6,
                    "power_mw": (one.power_w or 0.0) * 1e3,
                    "megabit_s": float(rates[place]) / 1e6,
                    "sent": self.shape.traffic[device].up,
                    "finish_s": float(self.timeline.finish_s[place]),
                    "late": "late" if device in late else "",
                    "joules": self.joules[device],
                }
            )
        return sorted(rows, key=lambda row: int(row["device"]))

    def summary(self) -> dict[str, Any]:
        """The figures of the round by name, as a row of a sweep (see plan_sweep.COLUMNS)."""
        rows = self.rows()
        return {
            "devices": len(rows) - len(self.late),
            "late": len(self.late),
            "round_s": self.round_s,
            "joules": sum(self.joules.values()),
            "sent": self.sent_bytes,
            "ste": self.decided.ste,
            "survives": self.survival.agreement if self.survival else None,
            **{key: _mean([row[key] for row in rows]) for key in ("tokens", "bits", "cut")},
        }

    def sentences(self) -> list[str]:
        """Sentences for people on what the round takes and who takes part."""
        lines = [self._takes(), f"samples: {self.samples.said}"]
        if self.later_bytes is not None:
            lines.append(
                f"a sample is sent once: {self.sent_bytes / 1e6:.4g} MB up in this round, "
                f"{self.later_bytes / 1e6:.4g} MB in one whose samples the server holds"
            )
        if self.job.method.split and self.job.method.uplink.codec == "klt":
            first = "some 64 samples in 4 bits, to which the server fits the codec, and "
            lines.append(
                "the first round takes more than planned: "
                + (first if self.job.method.uplink.fit == "devices" else "")
                + "the basis that each device gets"
            )
        if len(self.job.method.allocation.precisions) > 1:
            counts = Counter(one.precision for one in self.decided.decisions.values())
            lines.append(
                "devices compute "
                + " and ".join(f"in {name} ({count})" for name, count in counts.most_common())
                + ", if all of them are light (without torch)"
            )
        lines += [setting.sentence() for setting in unread(self.job)]
        solver, reckoned = self.job.method.allocation.solver, self.decided.solver_s
        if reckoned is not None and abs(reckoned - self.round_s) > 0.01 * self.round_s:
            lines.append(
                f"{solver} expected a round of {reckoned:.4g} s: its formula has no queue at the "
                "server, nor devices that compute while they send"
            )
        if self.decided.ste is not None:
            bound = self.decided.ste_bound
            most = f", of at most {bound:.4g}" if bound is not None else ""
            lines.append(f"semantic transmission efficiency {self.decided.ste:.4g} 1/s{most}")
        elif self.job.method.split and not self.known.turns:
            lines.append(
                "semantic transmission efficiency is not known, as nothing says how important the "
                "tokens are that are kept: run cutlayer calibrate with this job first"
            )
        if self.decided.note:
            lines.append(f"{solver}: {self.decided.note}")
        if self.survival:
            lines.append(self.survival.sentence())
        if solver == "auto":
            lines.append(
                "before the first round the server measures the quality that auto needs, on "
                "samples that no device has (data.calibration): no bytes and no seconds of a round"
            )
        reasons: dict[str, list[int]] = {}
        for device, why in sorted(self.decided.left_out.items()):
            reasons.setdefault(why, []).append(device)
        for why, devices in reasons.items():
            lines.append(f"left out {', '.join(map(str, devices))}: {why}")
        return lines

    def _takes(self) -> str:
        """Who takes part, who would be late, and what the round takes."""
        decided, late = self.decided.decisions, self.late
        drawn = len({*decided, *self.decided.left_out})
        who = f"{len(decided)} of {drawn} devices take part"
        if late:
            deadline = self.known.world.settings.deadline_s
            limit = "in time" if deadline is None else f"within {deadline:g} s"
            who = (
                f"{len(decided) - len(late)} of {drawn} devices finish {limit}; late "
                f"{'is' if len(late) == 1 else 'are'} {', '.join(map(str, sorted(late)))}"
            )
        used = sum(one.bandwidth_hz or 0.0 for one in decided.values())
        if self.known.turns:
            used = self.known.bandwidth_hz
        return (
            f"{who}; a round takes {self.round_s:.4g} s, {sum(self.joules.values()):.4g} J and "
            f"{self.sent_bytes / 1e6:.4g} MB up; {used / 1e6:.4g} of "
            f"{self.known.bandwidth_hz / 1e6:.4g} MHz are used"
        )


class Planner:
    """Plans rounds of one job; what all rounds share is computed once.

    read: a function that reads labels, which a caller with many jobs on the same data can cache.
    clock: its virtual second is the start of each round. Raises JobError, ModelError, DataError or
    WorldError.
    """

    def __init__(self, job: Job, read: ReadLabels = read_labels) -> None:
        if job.world is None:
            raise JobError(
                "world: a plan needs one: add a world section (--set world={} for defaults)"
            )
        if job.method.pooled:
            raise JobError(f"method.name: {job.method.name!r} has no devices to plan for")
        self.job = job
        self.spec = describe(job.model)
        check(job, self.spec)
        self.clock = VirtualClock(job, self.spec)
        self._samples = samples_of(job, self.clock.world, read)
        self._measures = StatisticsFromCalibration(job)

    def plan(self, round: int) -> Plan:
        """Solve the allocation of one round. Raises WorldError or AllocationError."""
        clock, samples = self.clock, self._samples
        cohort, away = clock.reachable(round, draw_cohort(self.job, round))
        held = {device: samples.by_device[device] for device in cohort}
        known = clock.planning_input(round, held, samples.classes, self._measures)
        decided = allocate_round(round, known)
        shape = planned_shape(round, known, decided, known.visited)
        timed = clock.timed(shape)
        timeline = timed.timeline()
        decided = with_expected(known, decided, shape, timeline.duration_s)
        return Plan(
            self.job,
            known,
            replace(decided, left_out=away | decided.left_out),
            shape,
            timeline,
            timed.joules(timeline),
            timed.late(timeline),
            samples,
            self._measures.survival(decided.decisions.values(), self.spec.patches),
            self._later_bytes(round, known, decided, shape),
        )

    def _later_bytes(
        self, round: int, known: PlanningInput, decided: RoundDecisions, shape: RoundShape
    ) -> int | None:
        """Bytes that all devices would send in the same round once the server holds the samples."""
        if not shape.computed:
            return None
        decisions = decided.decisions.items()
        visited = {device: setting_of(one, self.job.method) for device, one in decisions}
        later = planned_shape(round, known, decided, visited)
        return sum(traffic.up for traffic in later.traffic.values())


def plan(job: Job, *, round: int = 0) -> Plan:
    """Solve the allocation of one round of `job` without training, as if it were the first.

    job: has a world, since a plan is of its radio. round: which round, counted from 0; it decides
    who is drawn and what the channel is like.
    Raises JobError, ModelError, DataError, WorldError or AllocationError, each with one sentence.
    """
    return Planner(job).plan(round)


def in_a_world(job: Job) -> Job:
    """The job, with the default world where it names none, since a plan needs one."""
    return job if job.world is not None else job.model_copy(update={"world": WorldSettings()})


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
