"""The lines of benchmarks/reports/fair.jsonl: what each run of the fair table came to."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cutlayer.job import Job
from cutlayer.record.rows import Row
from run_lines import Line, RunLines

FILE = Path(__file__).parent / "reports" / "fair.jsonl"
SCALE = (
    "model_name", "data_name", "train", "test", "rounds", "devices", "per_round", "held_out",
    "batch_size", "image_size", "cut", "cuts", "precision",
)  # fmt: skip
"""The settings that all runs of one table share."""
PROBE = "linear probe"
"""The allocation that lines of the probe name."""
TUNING_SEED = 100
"""The seed with which learning rates are chosen, and which the table does not use."""
UNREAD = 10
"""Test images of a run that tunes: none are looked at, and a job has some."""


def scale_of(options: argparse.Namespace) -> Line:
    """The size of a table, as its lines have it."""
    return {name: getattr(options, name) for name in SCALE}


class Lines(RunLines):
    """The runs of one size that there are."""

    def __init__(self, scale: Line, file: Path = FILE) -> None:
        super().__init__(scale, file)

    def find(self, allocation: str, rule: str, seed: int, rate: float | None = None) -> Line | None:
        """A run; None where there is none yet. rate: its learning rate; None: any."""
        known = {} if rate is None else {"lr": rate}
        return self.latest(allocation=allocation, rule=rule, seed=seed, **known)

    def tuned(self, allocation: str, rule: str, rates: Sequence[float]) -> float | None:
        """The rate with the highest accuracy on held-out samples; None until all were tried."""
        tried = [self.find(allocation, rule, TUNING_SEED, rate) for rate in rates]
        if not all(tried):
            return None
        best = max((line for line in tried if line), key=lambda line: line["held_out_accuracy"])
        return float(best["lr"])

    def beyond(self, rates: Sequence[float]) -> list[Line]:
        """Runs that tried another learning rate than these, on samples that devices hold out."""
        return [
            line for line in self.all if line["seed"] == TUNING_SEED and line["lr"] not in rates
        ]


def what_came_out(rows: Sequence[Row], job: Job) -> Line:
    """The figures of one run.

    accuracy: of the exported adapter in the unsplit model; served: of device and server together,
    with the tokens and bits of a device in the middle of the last round, which is the exported
    adapter's where nothing is left out of what crosses. steps: of all devices together; in_row:
    how many of them follow each other, which is all of a device's where all devices step side by
    side. left_out: devices, over all rounds, that the allocation left out or that came too late.
    """
    last, method = rows[-1], job.method
    one_by_one = method.pooled or method.server_adapter == "in-turn"
    chain = sum if one_by_one else max
    shapes = [row.shape(job.training) for row in rows]
    counts = [[len(sizes) for sizes in shape.batches.values()] for shape in shapes]
    return {
        "accuracy": last.accuracy,
        "served": last.accuracy_through_cut or last.accuracy,
        "held_out_accuracy": held_out(last),
        "visits": sum(sum(row.samples_trained.values()) for row in rows),
        "steps": sum(map(sum, counts)),
        "in_row": sum(chain(one) for one in counts if one),
        "bytes": sum(row.up_bytes + row.down_bytes for row in rows),
        "seconds": None if method.pooled else sum(row.virtual_s or 0.0 for row in rows),
        "joules": None if method.pooled else sum(sum(row.joules.values()) for row in rows),
        "left_out": sum(len(row.left_out) + len(row.late) for row in rows),
    }


def held_out(row: Row) -> float:
    """Accuracy over all samples that devices hold out. Raises ValueError where there are none."""
    if not sum(row.held_out_samples):
        raise ValueError("devices hold out no sample")
    right = [
        accuracy * samples
        for accuracy, samples in zip(row.held_out_accuracy, row.held_out_samples, strict=True)
        if accuracy is not None
    ]
    return sum(right) / sum(row.held_out_samples)
