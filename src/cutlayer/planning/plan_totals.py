"""Sums of many planned rounds: the job's rounds together, and the spread over random draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cutlayer.drawing import tables
from cutlayer.drawing.tables import Column
from cutlayer.errors import AllocationError, CutlayerError, WorldError
from cutlayer.job import Job
from cutlayer.planning.plan import Plan, Planner
from cutlayer.world import energy

MOST_ROUNDS = 20
MOST_TURNS = 20_000
"""At most so many rounds of a job are planned, with so many turns of devices in them; later rounds
count as the mean of these."""

DRAWN = (
    Column("devices", "in time", "number"),
    Column("round_s", "round", "seconds"),
    Column("joules", "devices J"),
    Column("sent", "up", "bytes"),
    Column("ste", "STE 1/s"),
)


@dataclass(frozen=True)
class Totals:
    """All rounds of a job: seconds, joules of all devices, bytes up, and turns that came too late.

    planned: how many rounds were planned one after another; the rest are taken as their mean.
    """

    rounds: int
    planned: int
    seconds: float
    joules: float
    sent_bytes: float
    late: float

    def sentence(self) -> str:
        """For people."""
        rest = "" if self.planned == self.rounds else f" (as the mean of the first {self.planned})"
        late = f"; {self.late:.0f} turns of devices are late" if self.late else ""
        return (
            f"the job's {self.rounds} rounds{rest} take {self.seconds:.4g} s, {self.joules:.4g} J "
            f"and {self.sent_bytes / 1e6:.4g} MB up{late}"
        )


def totals_of(job: Job, first: Plan | None = None) -> Totals:
    """The job's rounds, planned one after another on the virtual clock, and summed.

    first: the plan of the job's first round, where there is one already. Raises as `plan` does for
    the first round that has no plan, naming it.
    """
    planner, plans = Planner(job), []
    turns = job.devices.per_round or job.devices.count
    planned = min(job.training.rounds, MOST_ROUNDS, max(1, MOST_TURNS // turns))
    for round in range(planned):
        try:
            plans.append(first if first and round == 0 else planner.plan(round))
        except (AllocationError, WorldError) as error:
            raise type(error)(f"round {round + 1} of the job has no plan: {error}") from None
        planner.clock.now_s += plans[-1].round_s
        planner.clock.note(plans[-1].shape)
    scale = job.training.rounds / planned
    return Totals(
        job.training.rounds,
        planned,
        scale * sum(one.round_s for one in plans),
        scale * sum(sum(one.joules.values()) for one in plans),
        scale * sum(one.sent_bytes for one in plans),
        scale * sum(len(one.late) for one in plans),
    )


def sentences(found: Plan) -> list[str]:
    """Sentences below a plan: the job's rounds together, and sending the images instead."""
    try:
        first = found if found.shape.round == 0 else None
        lines = [totals_of(found.job, first).sentence()]
    except (AllocationError, WorldError) as error:
        lines = [str(error)]
    instead = upload_instead(found)
    return [*lines, *([instead] if instead else [])]


def draws_of(planner: Planner, draws: int, round: int = 0) -> dict[str, Any]:
    """Summaries (see Plan.summary) of `draws` rounds from `round` on, all begun at second 0.

    Draws differ in fading, in who is drawn, and in places if these are redrawn each round. Returns
    by name a list with a value for each draw; `why` says why some draws have no plan. Raises
    AllocationError or WorldError if no draw has one.
    """
    found: list[dict[str, Any]] = []
    faults: list[CutlayerError] = []
    for number in range(round, round + draws):
        try:
            found.append(planner.plan(number).summary())
        except (AllocationError, WorldError) as error:
            faults.append(error)
    if not found:
        raise faults[0]
    why = f"{len(faults)} of {draws} draws have no plan: {faults[0]}" if faults else ""
    return {key: [one[key] for one in found] for key in found[0]} | {"why": why}


def draws_table(summary: dict[str, Any]) -> tables.Fitted:
    """The mean over draws and, in brackets, the least and the most."""
    return tables.Fitted([summary], DRAWN, f"Over {len(summary['round_s'])} draws")


def spread_of(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the values there are; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None, None
    return float(np.mean(known)), float(np.std(known))


def upload_instead(found: Plan) -> str | None:
    """A sentence on what it takes to send the images themselves once, at equal shares of the band.

    None for texts, whose length is not known before they are read.
    """
    spec, known = found.known.loads.spec, found.known
    if spec.modality != "image":
        return None
    each = spec.image_size**2 * spec.channels
    held = known.loads.samples_per_epoch
    power = known.fleet.power_max_w
    with np.errstate(divide="ignore"):
        seconds = 8 * each * held / known.uplink_bps(known.bandwidth_hz / len(held), power)
    joules = energy.transmit_j(power, seconds).sum()
    return (
        f"uploading the images of these {len(held)} devices instead: {each * held.sum() / 1e6:.4g} "
        f"MB once ({held.sum():,.0f} of {spec.image_size} x {spec.image_size} x {spec.channels} "
        f"bytes, uncompressed), {seconds.max():.4g} s and {joules:.4g} J of sending at equal "
        "shares of the band"
    )
