"""The list of runs as a CSV file."""

import csv
import io
from collections.abc import Iterable

from cutlayer.dashboard.watch import WatchedRun

COLUMNS = (
    "id", "state", "method", "model", "seed", "network", "rounds", "of", "accuracy", "loss",
    "up_bytes", "down_bytes", "virtual_s", "joules", "seconds", "devices", "changed_s", "notice",
    "fault",
)  # fmt: skip


def as_csv(runs: Iterable[WatchedRun]) -> str:
    """A line for each run, with what the list of runs shows of it: bytes, seconds and joules.

    accuracy is a share from 0 to 1, changed_s seconds since 1970; what a run lacks is empty.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    for run in sorted(runs, key=lambda one: one.name):
        writer.writerow(run.told())
    return text.getvalue()
