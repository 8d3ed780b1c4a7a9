"""The fair table: what the allocation gives, and what the rule of the server's adapter gives.

    python benchmarks/fair.py --model DINOV2 --data CIFAR10 --runs DIR

trains every allocation with every rule of the server's adapter in one wireless world, all else
equal: frozen devices, data, cohort, rounds. The learning rate of each cell is the one that does
best on samples that devices hold out, with a seed that the table does not use. Beside the table
stand a central model, tuned in the same way, and a linear probe on the calibration images. Finished
runs below DIR are kept, unfinished ones go on; `--only-report` writes benchmarks/reports/fair.md
from what is there.

MODEL is a DINOv2-small checkpoint folder, DATA a folder with train.parquet and test.parquet. The
defaults are the whole table, hours on one GPU: --allocations, --rules, --seeds, --rates, --train,
--test and --rounds make it smaller, and the report says to what.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from cutlayer.data.sources import load_calibration
from cutlayer.drawing import tables
from cutlayer.job import Job, change_job, make_job
from cutlayer.model.framing import fit_for
from cutlayer.planning.calibration.cut_survey import fit
from cutlayer.record.folder import STATE_FILE
from cutlayer.record.row_lines import read_rows
from cutlayer.record.rows import Row
from cutlayer.reports.views.statistics import paired_interval
from cutlayer.rounds.progress import Silent
from cutlayer.settings.training import Training
from cutlayer.simulation.simulate import resume, simulate
from cutlayer.train.evaluate import evaluate, unsplit
from cutlayer.train.parts import load_parts
from cutlayer.train.task import task_of
from environment import describe

REPORT = Path(__file__).parent / "reports" / "fair.md"
TUNING_SEED = 100
ALLOCATIONS = {
    "equal": "sflora",
    "st-sflora": "st-sflora",
    "exact": "st-sflora allocation.solver=exact",
    "sflam": "sflam cut=2",
    "asfv": "asfv",
    "auto": "auto allocation.quality_min=0.8",
    "lean": "lean",
}
RULES = ("averaged", "shared", "in-turn")
CENTRAL = "central model"
COLUMNS = (
    tables.Column("allocation", "allocation", "text"),
    tables.Column("rule", "server adapter", "text"),
    tables.Column("lr", "learning rate", "text"),
    tables.Column("accuracy", "exported", "percent"),
    tables.Column("through_cut", "through the cut", "percent"),
    tables.Column("steps", "steps", "count"),
    tables.Column("bytes", "sent", "bytes"),
    tables.Column("seconds", "virtual, median", "seconds"),
    tables.Column("slower", "of equal, averaged", "ratio"),
)


@dataclass(frozen=True)
class Cell:
    """A line of the table. rule: empty where training is central."""

    allocation: str
    rule: str

    @property
    def settings(self) -> list[str]:
        """What it sets on top of the job that all share."""
        if not self.rule:
            return ["method=centralized"]
        name, *settings = ALLOCATIONS[self.allocation].split()
        return [
            f"method={name}",
            *(f"method.{one}" for one in settings),
            "method.device=frozen",
            f"method.server_adapter={self.rule}",
        ]

    def folder(self, runs: Path, what: str) -> Path:
        """The folder of one of its runs."""
        return runs / f"{self.allocation}-{self.rule}-{what}".replace(" ", "_")


def main() -> None:
    options = parse()
    if not options.only_report:
        for cell in cells(options):
            rate = tune(cell, options)
            for seed in options.seeds:
                run(job_of(cell, options, rate, seed), cell.folder(options.runs, f"seed-{seed}"))
        for seed in options.seeds:
            probe(options, seed)
    REPORT.write_text(page(options))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--allocations", nargs="+", choices=ALLOCATIONS, default=[*ALLOCATIONS])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    parser.add_argument("--train", type=int, default=20000)
    parser.add_argument("--test", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--per-round", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=98)
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--only-report", action="store_true")
    return parser.parse_args()


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """The lines of the table, those that others are held against first."""
    for rule in options.rules:
        for allocation in options.allocations:
            yield Cell(allocation, rule)
    yield Cell(CENTRAL, "")


def job_of(cell: Cell, options: argparse.Namespace, rate: float, seed: int) -> Job:
    """The job of one run; all but the cell's settings, rate and seed is the same everywhere."""
    shared: dict[str, Any] = {
        "model": {"path": str(options.model), "image_size": options.image_size, "cut": 2},
        "data": {
            "source": "parquet",
            "path": str(options.data),
            "train_samples": options.train,
            "test_samples": options.test,
            "calibration": "held-out",
            "partition": {
                "kind": "dirichlet", "alpha": 0.5, "min_samples": 8, "held_out": 0.1,
            },
        },
        "devices": {"count": options.devices, "per_round": options.per_round},
        "training": {
            "rounds": options.rounds, "batch_size": 16, "evaluate_every": options.rounds,
            "compute": options.compute,
        },
        "world": {"reference_loss_db": 62.0},
    }  # fmt: skip
    return change_job(make_job(shared), [*cell.settings, f"training.lr={rate}", f"seed={seed}"])


def run(job: Job, folder: Path) -> list[Row]:
    """The rows of a run, trained where they are not there yet."""
    if not (folder / "adapter").is_dir():
        print(folder.name, flush=True)
        if (folder / STATE_FILE).exists():
            resume(folder, progress=Silent())
        else:
            simulate(job, out=folder, progress=Silent())
    return read_rows(folder)


def tune(cell: Cell, options: argparse.Namespace) -> float:
    """The rate with the highest accuracy on held-out samples, of a seed that is in no table."""
    return max(
        options.rates,
        key=lambda rate: held_out(
            run(
                job_of(cell, options, rate, TUNING_SEED), cell.folder(options.runs, f"rate-{rate}")
            )[-1]
        ),
    )


def held_out(row: Row) -> float:
    """Accuracy over all samples that devices hold out."""
    right = [
        accuracy * samples
        for accuracy, samples in zip(row.held_out_accuracy, row.held_out_samples, strict=True)
        if accuracy is not None
    ]
    return sum(right) / sum(row.held_out_samples)


def probe(options: argparse.Namespace, seed: int) -> float:
    """Accuracy of the pretrained model with a head fitted in closed form to the calibration data,
    on which nothing was ever sent: what a method has to be above. Kept below DIR.
    """
    path = options.runs / f"probe-{seed}.json"
    if not path.exists():
        print(path.stem, flush=True)
        job = job_of(Cell("equal", RULES[0]), options, options.rates[0], seed)
        parts = load_parts(job)
        data = load_calibration(job.data, job.seed, fit_for(parts.model.spec))
        head = fit(parts.model, parts.preprocess, data, job.seed, lambda *_: None)
        logits_of = unsplit(parts.model, parts.preprocess, head)
        tested = evaluate(task_of(job, parts.model.spec), logits_of, parts.test)
        path.write_text(json.dumps({"accuracy": tested.accuracy, "samples": len(data)}))
    return float(json.loads(path.read_text())["accuracy"])


def page(options: argparse.Namespace) -> str:
    """The report, with every sentence on what came out computed from the runs."""
    found: dict[Cell, dict[int, list[Row]]] = {}
    for cell in cells(options):
        there = {
            seed: read_rows(folder)
            for seed in options.seeds
            if ((folder := cell.folder(options.runs, f"seed-{seed}")) / "adapter").is_dir()
        }
        if there:
            found[cell] = there
    reference = found.get(Cell("equal", "averaged"), {})
    rows = [line(cell, runs, reference, options) for cell, runs in found.items()]
    rows.append(
        {
            "allocation": "linear probe",
            "rule": "-",
            "lr": "-",
            "accuracy": [probe(options, seed) for seed in options.seeds],
        }
    )
    return TEXT.format(
        environment=describe(),
        table=tables.markdown(rows, COLUMNS),
        findings="\n".join(f"- {one}" for one in findings(found)),
        seeds=", ".join(map(str, options.seeds)),
        rates=", ".join(f"{rate:g}" for rate in options.rates),
        command=shlex.join(["python", "benchmarks/fair.py", *shown(sys.argv[1:])]),
        model=options.model.name,
        **{
            name: getattr(options, name)
            for name in ("image_size", "train", "test", "devices", "per_round", "rounds")
        },
    )


def shown(words: Sequence[str]) -> list[str]:
    """The options as they were given, without the folders of this machine."""
    names = {"--model": "DINOV2", "--data": "CIFAR10", "--runs": "DIR"}
    return [
        names.get(before, word)
        for before, word in zip(["", *words], words, strict=False)
        if word != "--only-report"
    ]


def line(
    cell: Cell,
    runs: Mapping[int, list[Row]],
    reference: Mapping[int, list[Row]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """A line of the table."""
    both = runs.keys() & reference.keys()
    in_world = bool(cell.rule)
    rate = tune(cell, options)
    training = job_of(cell, options, rate, 0).training
    return {
        "allocation": cell.allocation,
        "rule": cell.rule or "-",
        "lr": f"{rate:g}",
        "accuracy": [rows[-1].accuracy for rows in runs.values()],
        "through_cut": [rows[-1].accuracy_through_cut for rows in runs.values()]
        if in_world
        else None,
        "steps": mean(steps(rows, training) for rows in runs.values()),
        "bytes": mean(sum(r.up_bytes + r.down_bytes for r in rows) for rows in runs.values()),
        "seconds": median(map(seconds, runs.values())) if in_world else None,
        "slower": [seconds(runs[seed]) / seconds(reference[seed]) for seed in sorted(both)]
        if in_world
        else None,
    }


def steps(rows: Sequence[Row], training: Training) -> int:
    """Optimiser steps of a run, of all devices together."""
    return sum(len(sizes) for row in rows for sizes in row.shape(training).batches.values())


def seconds(rows: Sequence[Row]) -> float:
    """Of a run, in the job's world."""
    return sum(row.virtual_s or 0.0 for row in rows)


def findings(found: Mapping[Cell, Mapping[int, list[Row]]]) -> Iterator[str]:
    """What the table says, each with its paired interval."""
    accuracy = {
        cell: {seed: rows[-1].accuracy or 0.0 for seed, rows in runs.items()}
        for cell, runs in found.items()
    }
    for cell, values in accuracy.items():
        if cell.rule == "averaged":
            for rule in RULES[1:]:
                other = Cell(cell.allocation, rule)
                if other in accuracy:
                    yield (
                        f"What the rule gives, with the allocation `{cell.allocation}`: {rule} "
                        f"against averaged {difference(accuracy[other], values)}."
                    )
    for rule in RULES:
        equal = Cell("equal", rule)
        for cell, values in accuracy.items():
            if equal in accuracy and cell.rule == rule and cell != equal:
                yield (
                    f"What the allocation gives, with the server adapter {rule}: "
                    f"`{cell.allocation}` against equal shares "
                    f"{difference(values, accuracy[equal])}, and "
                    f"{times(found[cell], found[equal])} its virtual seconds."
                )


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """Points of accuracy, with what several seeds say of it."""
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        return "not compared, for they share no seed"
    points = 100 * mean(ours[seed] - theirs[seed] for seed in both)
    interval = paired_interval(ours, theirs)
    if interval is None:
        return f"{points:+.1f} points (one seed)"
    low, high = 100 * interval[1], 100 * interval[2]
    sure = "" if low > 0 or high < 0 else ", which is not told from 0"
    return f"{points:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}{sure})"


def times(ours: Mapping[int, list[Row]], theirs: Mapping[int, list[Row]]) -> str:
    """The median over seeds of how many times the other's virtual seconds a run takes."""
    ratios = [seconds(ours[seed]) / seconds(theirs[seed]) for seed in ours.keys() & theirs.keys()]
    return f"{median(ratios):.2f} times" if ratios else "an unknown multiple of"


TEXT = """\
# The fair table: allocation and server adapter apart

{environment}

{model} ({image_size} pixels a side) on CIFAR-10: {train} training and {test} test
images, {devices} devices, Dirichlet 0.5, {per_round} a round, {rounds} rounds of one epoch, batches
of 16, AdamW, LoRA of rank 8, cut 2 where the allocation does not choose it, frozen device parts.
World: 50 MHz, 0.2 W, path-loss exponent 2.5, 62 dB of loss at 1 m, Rayleigh fading, 5 to 500 m.
Seeds {seeds}: mean and range. The learning rate of each line is that of {rates} with the highest
accuracy on the tenth of their samples that devices hold out, in a run with a seed that is not in
the table; no device trains on that tenth in any run. A tenth of the training images calibrates
`auto` and is on no device either.

{table}
exported: the adapter in the unsplit model. through the cut: with the tokens and bits of a device in
the middle of the last round. steps: of all devices together. of equal, averaged: virtual seconds
over those of the first line, by seed. central model: all training images in one place, the same
epochs. linear probe: the pretrained model with a head fitted in closed form to the calibration
images alone.

{findings}

    {command}
"""


if __name__ == "__main__":
    main()
