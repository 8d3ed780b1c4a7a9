"""When each stage of a finished run happened: the clock of its world, run again over its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cutlayer.errors import RunError
from cutlayer.job import Job
from cutlayer.model.families import describe
from cutlayer.model.spec import ModelSpec
from cutlayer.planning.virtual_clock import VirtualClock
from cutlayer.record.rows import Row


def spec_of_run(job: Job, rows: Sequence[Row]) -> ModelSpec:
    """The sizes of the run's model, with a head for as many classes as its record tells apart.

    Raises ModelError where the model's config cannot be read.
    """
    return describe(job.model, len(rows[-1].class_accuracy))


def run_stages(job: Job, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A row for each stage of each device's turn: round (from 1), device, stage, step (from 0), and
    its start and end in seconds since the round began. Stages that never ended are left out.

    Raises RunError for a run without a world or over a network, whose seconds are not the clock's,
    and ModelError or WorldError where its model or world cannot be read any more.
    """
    if any(row.virtual_s is None for row in rows):
        raise RunError(
            "to_pandas: 'stages' are those of a simulation in a world, and this run has none: add "
            "world={} to its job and simulate it"
        )
    clock = VirtualClock(job, spec_of_run(job, rows))
    found = []
    for row in rows:
        assert row.virtual_s is not None
        shape = row.shape(job.training)
        stages = clock.timeline(shape).stage_rows(shape.trained)
        found += [{"round": row.round + 1, **stage} for stage in stages]
        clock.now_s += row.virtual_s
    return found
