"""What devices that drop out cost: lines with devices.drop_out beside the same ones without.

Robustness, one of the three protocols of EdgeFlowerTune (arXiv 2605.08636).
"""

import itertools
from collections.abc import Sequence
from typing import Any

from cutlayer.drawing.tables import Column
from cutlayer.job import Job
from cutlayer.reports.views.statistics import paired_interval
from cutlayer.simulation.lines import Line

COLUMNS = (
    Column("method", "method", "text"),
    Column("chance", "drop-out", "percent"),
    Column("lost", "lost", "percent"),
    Column("without", "without", "percent"),
    Column("with", "with", "percent"),
    Column("difference", "difference", "percent"),
    Column("low", "from", "percent"),
    Column("high", "to", "percent"),
)
NOTES = """\
drop-out: the chance that a device which began a round is lost in it (devices.drop_out); lost: the
share that was. without, with: accuracy after the last round without and with drop-outs. difference:
in points, seed by seed, and where its mean lies with 95 % confidence, by Student's t.
"""


def drop_out_pairs(lines: Sequence[Line]) -> list[tuple[Line, Line]]:
    """Each line with drop-outs, after the first one that has the same job without them."""
    found = []
    for line in lines:
        job = line.results[0].job
        if job.devices.drop_out:
            steady = _without_drop_outs(job)
            same = (one for one in lines if _any_seed(one.results[0].job) == steady)
            found += [(one, line) for one in itertools.islice(same, 1)]
    return found


def drop_out_rows(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """A row for each pair of `drop_out_pairs`; its accuracies are lists, a value a seed."""
    rows = []
    for without, line in drop_out_pairs(lines):
        every = [row for result in line.results for row in result.rows]
        began = sum(len(row.cohort) for row in every)
        row: dict[str, Any] = {
            "method": without.label,
            "chance": line.results[0].job.devices.drop_out,
            "lost": sum(len(row.lost) for row in every) / began if began else None,
            "without": list(without.accuracy.values()),
            "with": list(line.accuracy.values()),
        }
        both = without.accuracy.keys() & line.accuracy.keys()
        apart = [line.accuracy[seed] - without.accuracy[seed] for seed in both]
        row["difference"] = sum(apart) / len(apart) if apart else None
        interval = paired_interval(line.accuracy, without.accuracy)
        if interval is not None:
            _, row["low"], row["high"] = interval
        rows.append(row)
    return rows


def _without_drop_outs(job: Job) -> Job:
    devices = job.devices.model_copy(update={"drop_out": 0.0})
    return _any_seed(job.model_copy(update={"devices": devices}))


def _any_seed(job: Job) -> Job:
    return job.model_copy(update={"seed": 0})
