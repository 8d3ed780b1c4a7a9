"""Training samples a second of each method beside the bare loop, on one machine as it stands.

    python benchmarks/engine_rates.py [--model DINOV2 --data CIFAR10] [--write]

Made for a GPU; on a CPU the same code runs, with sizes to suit (`--sizes 2x2 --steps 1`). For each
size and precision the loop of transformers and PEFT alone at the same total batch, then every
method; where `--compile-at 64x8/bfloat16` says so, also by torch.compile, which takes about a
minute a line. Where the machine lacks a precision or a compiler, the report says so, and which
figures are missing therefore.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bare_loop import bare_loop
from cutlayer.drawing import tables
from cutlayer.errors import JobError, RunError
from cutlayer.job import Job, change_job, make_job
from cutlayer.train.link import LocalLink
from cutlayer.train.parts import (
    Parts,
    load_parts,
    parts_for,
)
from cutlayer.train.pool_size import pool_size
from cutlayer.train.result import Trained
from cutlayer.train.round import Turn, train_devices, train_round
from cutlayer.train.stopwatch import Stopwatch
from engine import BARE, VARIANTS
from environment import describe
from speed import prepared

REPORTS = Path(__file__).parent / "reports"
METHODS = {label: words for label, words in VARIANTS.items() if label != "split-lora (in turn)"}
IN_TURN = "st-sflora, all tokens (in turn)"
GOALS: tuple[tuple[str, str, str, str, float], ...] = (
    ("sflora", "64 x 8", "any", "bare", 0.8),
    ("sflora", "64 x 8", "tf32", "rate", 12_000),
    ("sflora", "64 x 8", "bfloat16", "rate", 20_000),
    ("tsflora, 4 bits, rotated", "64 x 8", "any", "bare", 0.7),
    (IN_TURN, "64 x 8", "bfloat16", "rate", 2_500),
)
"""Of an H100: a method, a size, a precision, and what its best line there should reach, in samples
a second ("rate") or of the bare loop's in the same precision ("bare")."""


def synchronized() -> None:
    """Wait until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class SynchronizedStopwatch(Stopwatch):
    """Seconds by stage where a stage ends when the GPU has done its work, too."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """See Stopwatch."""
        synchronized()
        with super().timed(stage):
            yield
            synchronized()


def with_stages(turn: Turn) -> dict[int, Trained]:
    """Train a turn whose stages are timed each for itself."""
    turn.result.watch = SynchronizedStopwatch()
    return train_devices(turn)


def one_round(
    job: Job, parts: Parts, round: int, train_turn: Callable[[Turn], dict[int, Trained]]
) -> tuple[float, float, int]:
    """Seconds of a round, the wire's share of its stages, and its samples."""
    server, devices, decisions = prepared(job, parts, round)
    synchronized()
    start = time.perf_counter()
    result = train_round(job, round, decisions, LocalLink(devices), server, train_turn=train_turn)
    synchronized()
    took = time.perf_counter() - start
    stages = result.watch.seconds
    share = stages.get("wire", 0.0) / sum(stages.values())
    return took, share, sum(result.shape.samples_trained.values())


def peak_bytes() -> int | None:
    """The most of the GPU's memory that tensors took since the last call; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return found


def measure_method(job: Job, parts: Parts, rounds: int) -> dict[str, Any]:
    """What a line says of a method."""
    parts = parts_for(job, parts)
    one_round(job, parts, 0, train_devices)  # warms up, and compiles
    peak_bytes()
    timed = [one_round(job, parts, number, train_devices) for number in range(1, rounds + 1)]
    memory = peak_bytes()
    _, wire, _ = one_round(job, parts, rounds + 1, with_stages)
    return {
        "rate": median(samples / took for took, _, samples in timed),
        "wire": wire if job.method.split else None,
        "memory": memory,
        "pool": pool_size(job, parts.model),
    }


def measure_bare(job: Job, parts: Parts, samples: int, steps: int, rounds: int) -> dict[str, Any]:
    """What a line says of the loop without cutlayer."""
    parts = parts_for(job, parts)
    step = bare_loop(parts, samples, job.training.precision, job.training.compile)
    step()
    synchronized()
    peak_bytes()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        synchronized()
        found.append(samples * steps / (time.perf_counter() - start))
    return {"rate": median(found), "wire": None, "memory": peak_bytes(), "pool": None}


def job_of(devices: int, batch: int, steps: int, model: Path | None, data: Path | None) -> Job:
    """Devices with as many batches a round as there are steps, of the demo or of CIFAR-10."""
    held = {"partition": {"kind": "drawn", "samples_per_device": batch * steps}}
    job: dict[str, Any] = {
        "devices": {"count": devices},
        "training": {"batch_size": batch},
        "data": {**held, "train_samples": 1000, "test_samples": 10},
    }
    if model is not None:
        job["model"] = {"path": str(model), "image_size": 98}
        job["data"] |= {"source": "parquet", "path": str(data), "input_column": "image"}
    return make_job(job)


def measure(options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each size, precision, way and method; and why some of them are missing."""
    rows, missing = [], []
    compiled_at = options.compile_at.split(",")
    for size in options.sizes.split(","):
        devices, batch = map(int, size.split("x"))
        job = job_of(devices, batch, options.steps, options.model, options.data)
        parts = load_parts(job)
        for precision in options.precisions.split(","):
            ways = (False, True) if f"{size}/{precision}" in compiled_at else (False,)
            for compiled in ways:
                way = [f"training.precision={precision}", f"training.compile={compiled}".lower()]
                beside = 0.0
                for method in (BARE, *METHODS):
                    own = change_job(job, [*METHODS.get(method, []), *way])
                    try:
                        if method == BARE:
                            total = devices * batch
                            found = measure_bare(own, parts, total, options.steps, options.rounds)
                            beside = found["rate"]
                        else:
                            found = measure_method(own, parts, options.rounds)
                    except (JobError, RunError, torch.OutOfMemoryError) as error:
                        missing.append(f"{method}, {size}, {precision}: {error}")
                        if method == BARE:  # the machine has no such numbers, or no compiler
                            break
                        continue
                    rows.append(
                        {
                            "method": method,
                            "size": f"{devices} x {batch}",
                            "precision": precision + (", compiled" if compiled else ""),
                            **found,
                            "bare": found["rate"] / beside,
                        }
                    )
                    print(rows[-1], flush=True)
    return rows, missing


def goals(rows: list[dict[str, Any]]) -> str:
    """A sentence for each goal of an H100: what was reached, or that nothing was measured."""
    said = []
    for method, size, precision, figure, least in GOALS:
        reached = [
            row[figure]
            for row in rows
            if (row["method"], row["size"]) == (method, size)
            and precision in ("any", row["precision"].split(",")[0])
        ]
        what = "of the bare loop" if figure == "bare" else "samples a second"
        where = "" if precision == "any" else f" in {precision}"
        found = f"{max(reached):,.4g}" if reached else "not measured"
        said.append(f"- `{method}`, {size}{where}: at least {least:,g} {what}; here {found}.")
    return "\n".join(said)


COLUMNS = (
    tables.Column("method", "method", "text"),
    tables.Column("size", "devices x batch", "text"),
    tables.Column("precision", "precision", "text"),
    tables.Column("rate", "samples a second"),
    tables.Column("bare", "of the bare loop", "ratio"),
    tables.Column("wire", "wire's share", "percent"),
    tables.Column("memory", "peak of tensors", "bytes"),
    tables.Column("pool", "devices in a pass", "count"),
)
TEXT = """\
# Training samples a second, on one machine

{environment}

{model}, cut 2, LoRA rank 8, {steps} steps a round, tensors on {compute}. Medians of {rounds}
rounds, after one that warms up; from handing out adapters to their average, testing left out. *of
the bare loop*: against transformers and PEFT alone, with AdamW, at the same total batch, in the
same precision, eager or compiled likewise. *wire's share*: of a round whose stages are waited for
one by one, encoding and decoding both ways.

    {command}

{table}
## What an H100 should reach

{goals}
{missing}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="DINOv2-small; None: the demo's model and data")
    parser.add_argument("--data", type=Path, help="CIFAR-10 as parquet files")
    parser.add_argument("--sizes", default="16x8,64x8,64x32", help="devices x batch, by commas")
    parser.add_argument("--precisions", default="float32,tf32,bfloat16")
    parser.add_argument(
        "--compile-at", default="", help="what is compiled, too: SIZE/PRECISION, by commas"
    )
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write reports/engine_rates.md")
    options = parser.parse_args()
    rows, missing = measure(options)
    given = [f"--sizes {options.sizes}", f"--precisions {options.precisions}"]
    given += [f"--compile-at {options.compile_at}"] if options.compile_at else []
    given += [f"--steps {options.steps}", f"--rounds {options.rounds}", "--write"]
    model = "The demo's ViT of 1.2 M parameters, 28 x 28 pixels, 50 tokens"
    if options.model:
        given.insert(0, "--model DINOV2 --data CIFAR10")
        model = "DINOv2-S/14, CIFAR-10 at 98 x 98 pixels, 50 tokens"
    compute = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    listed = "".join(f"- {line}\n" for line in missing)
    text = TEXT.format(
        environment=describe(), model=model, steps=options.steps, rounds=options.rounds,
        compute=compute, command=f"python benchmarks/engine_rates.py {' '.join(given)}",
        table=tables.markdown(rows, COLUMNS), goals=goals(rows),
        missing=f"\n## What could not be measured here\n\n{listed}" if missing else "",
    )  # fmt: skip
    print(text)
    if options.write:
        (REPORTS / "engine_rates.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
