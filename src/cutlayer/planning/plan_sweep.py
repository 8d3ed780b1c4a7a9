"""Plans of a job for each value of a setting, or for each combination of several."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

from cutlayer.drawing import tables
from cutlayer.drawing.tables import Column
from cutlayer.errors import AllocationError, JobError, WorldError
from cutlayer.job import Job, change_job, split_values
from cutlayer.planning.plan import Planner
from cutlayer.planning.plan_samples import read_labels
from cutlayer.planning.plan_totals import draws_of

COLUMNS = (
    Column("value", "value", "text"),
    Column("devices", "in time", "count"),
    Column("late", "late", "count"),
    Column("round_s", "round", "seconds"),
    Column("joules", "devices J"),
    Column("sent", "up", "bytes"),
    Column("ste", "STE 1/s"),
    Column("survives", "survives", "percent"),
    Column("tokens", "mean tokens"),
    Column("bits", "mean bits"),
    Column("cut", "mean cut"),
)


def sweep(
    job: Job, *, setting: str | Sequence[str], draws: int = 1, round: int = 0
) -> list[dict[str, Any]]:
    """Plans of `job` for each value of `section.field=a,b,c`: rows for COLUMNS.

    job: what each plan starts from. round: the (first) round planned, counted from 0.
    setting: one, or several, of which all combinations are planned. Commas within brackets belong
    to a value. draws: with more than one, a row's figures are lists with a number for each draw
    (see draws_of). A value without a plan has a row that says why. Raises JobError for a setting
    that does not exist.
    """
    given = [setting] if isinstance(setting, str) else list(setting)
    axes = [_values(one) for one in given]
    named = [field for field, _ in axes]
    for field in named:
        if named.count(field) > 1:
            raise JobError(f"--sweep: {field} is swept twice: name all of its values in one")
    rows, read = [], cache(read_labels)
    for values in product(*(values for _, values in axes)):
        swept = dict(zip(named, values, strict=True))
        row: dict[str, Any] = {"field": ", ".join(named), "value": ", ".join(values), "why": ""}
        row |= {"settings": swept}
        changed = change_job(job, [f"{field}={value}" for field, value in swept.items()])
        try:
            planner = Planner(changed, read)
            row |= draws_of(planner, draws, round) if draws > 1 else planner.plan(round).summary()
        except (AllocationError, WorldError) as error:
            row["why"] = str(error)
        rows.append(row)
    return rows


def _values(setting: str) -> tuple[str, list[str]]:
    field, equals, values = setting.partition("=")
    if not equals or not values:
        raise JobError(
            f"--sweep: {setting!r} is not section.field=value,value, as in "
            "world.bandwidth_hz=10e6,20e6"
        )
    return field, split_values(values)


def sweep_table(rows: Sequence[dict[str, Any]]) -> tables.Fitted:
    """The rows of a sweep as a table for a terminal; a row without a plan says why."""
    shown = [{**row, "value": f"{row['value']} {row['why']}".strip()} for row in rows]
    return tables.Fitted(shown, COLUMNS, rows[0]["field"])
