"""A plan or a sweep as files: a CSV of what is printed, and pictures."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutlayer.files import write_atomically
from cutlayer.planning import plan_sweep
from cutlayer.planning.plan import Plan
from cutlayer.planning.plan_table import COLUMNS
from cutlayer.planning.plan_totals import spread_of
from cutlayer.record.writing import writing
from cutlayer.settings.units import in_own_unit


def write_plan(found: Plan, folder: Path) -> list[Path]:
    """Write pictures of a round and of who got what, and their numbers; returns the paths.

    plan.csv has a row for each device, round.csv one for each bar of round.png.
    """
    from cutlayer.drawing import plan_plots

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        several = len(found.job.method.allocation.precisions) > 1
        names = [one.key for one in COLUMNS if several or one.key != "precision"]
        _write_csv(found.rows(), names, folder / "plan.csv")
        stages = found.stages(plan_plots.MOST_LINES)
        _write_csv(stages, ["device", "stage", "step", "start_s", "end_s"], folder / "round.csv")
        plan_plots.gantt(found.timeline, list(found.decided.decisions), folder / "round.png")
        plan_plots.shares(found.rows(), folder / "shares.png")
    return [folder / name for name in ("plan.csv", "round.csv", "round.png", "shares.png")]


def write_sweep(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Write sweep.csv and the curves of a sweep; returns their paths.

    The CSV has a column for each setting that was swept, in the unit that its name says. With
    several draws, a figure's column has their mean and the column beside it, whose name ends in
    _std, their standard deviation.
    """
    from cutlayer.drawing import plan_plots

    numbers = [column.key for column in plan_sweep.COLUMNS if column.key != "value"]
    drawn = any(isinstance(row.get("round_s"), list) for row in rows)
    names = [*rows[0]["settings"], *numbers, *([f"{key}_std" for key in numbers] if drawn else [])]
    plain = [row | _in_own_units(row) | _averaged(row, numbers) for row in rows]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write_csv(plain, ["value", *names, "why"], folder / "sweep.csv")
        plan_plots.sweep(plain, folder / "sweep.png")
    return [folder / name for name in ("sweep.csv", "sweep.png")]


def _in_own_units(row: dict[str, Any]) -> dict[str, Any]:
    """The values of the settings that were swept; `10 MHz` as the number in its setting's unit."""
    return {field: in_own_unit(field, value) for field, value in row["settings"].items()}


def _averaged(row: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The row with each list of one value for each draw replaced by its mean and deviation."""
    found: dict[str, Any] = {}
    for key in keys:
        if isinstance(row.get(key), list):
            found[key], found[f"{key}_std"] = spread_of(row[key])
    return found


def _write_csv(rows: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
