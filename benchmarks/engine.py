"""The engine against an earlier commit: rounds of both taken in turns, as ratios.

    git worktree add ../before COMMIT
    python benchmarks/engine.py --before ../before [--write]

Each source tree has a process of its own, which trains one round of a variant when asked; the two
are asked alternately, so that what else the machine does falls on both. Compared are seconds of the
processor, evaluation left out. Also: the loop of transformers and PEFT alone, at the same batch.
Lines that come out slower are taken again, over pairs of new processes: where a process happens to
lie in memory makes all of its rounds faster or slower by some percent, which no number of rounds in
one pair of processes evens out. How fast a GPU trains, beside the bare loop there, is for
engine_rates.py.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from bare_loop import bare_loop

REPORTS = Path(__file__).parent / "reports"
ROTATED_4 = [
    f"method.{way}.{setting}"
    for way in ("uplink", "downlink")
    for setting in ("bits=4", "rounding=nearest", "per=token", "levels=gaussian", "rotate=true")
]
VARIANTS = {
    "centralized": ["method=centralized"],
    "fedlora": ["method=fedlora"],
    "sflora": ["method=sflora"],
    "tsflora, 8 bits": ["method=tsflora", "method.tokens.keep=null"],
    "tsflora, 4 bits, rotated": ["method=tsflora", "method.tokens.keep=null", *ROTATED_4],
    "tsflora, 24 tokens": ["method=tsflora", "method.tokens.keep=24", *ROTATED_4],
    "split-lora (in turn)": ["method=split-lora"],
    "st-sflora, all tokens (in turn)": ["method=st-sflora-full"],
}
BARE = "transformers + PEFT alone"


def work() -> None:
    """Answer each line [variant, devices, batch, pool] with seconds and samples of a round."""
    # Of the source tree that this process works with, which may be an older one.
    from cutlayer.job import change_job, make_job
    from cutlayer.train.parts import load_parts
    from speed import one_round

    torch.set_num_threads(1)
    held: dict[tuple[int, int], Any] = {}
    for number, line in enumerate(sys.stdin):
        variant, devices, batch, pool = json.loads(line)
        job = make_job(
            {
                "devices": {"count": devices},
                "training": {"batch_size": batch, "pool": pool},
                "data": {"train_samples": devices * batch, "partition": {"kind": "iid"}},
            }
        )
        if (devices, batch) not in held:
            held[devices, batch] = load_parts(job)
        parts = held[devices, batch]
        if variant == BARE:
            seconds = bare_step(parts, devices * batch)
        else:
            start = time.process_time()
            one_round(change_job(job, VARIANTS[variant]), parts, number)
            seconds = time.process_time() - start
        print(json.dumps([seconds, devices * batch]), flush=True)


def bare_step(parts: Any, samples: int) -> float:
    """Seconds of the processor for a step of the loop without cutlayer."""
    step = bare_loop(parts, samples)
    start = time.process_time()
    step()
    return time.process_time() - start


class Worker:
    """A process that trains rounds with one source tree."""

    def __init__(self, tree: Path) -> None:
        paths = [str(tree / "src"), str(Path(__file__).parent)]
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def rate(self, *asked: Any) -> float:
        """Training samples a second of the processor in one round."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {asked} ended: see its message above")
        seconds, samples = json.loads(line)
        return float(samples / seconds)

    def end(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True)
class Line:
    """One variant at one size: samples a second of both trees, in pairs of rounds side by side."""

    variant: str
    devices: int
    batch: int
    pairs: tuple[tuple[float, float], ...]

    @property
    def size(self) -> str:
        """As the table says it."""
        return f"{self.devices} x {self.batch}"

    @property
    def ratio(self) -> tuple[float, float, float]:
        """The geometric mean of now over before, and where it lies with 95 % confidence."""
        from cutlayer.reports.views.statistics import paired_interval

        before, now = (
            {n: math.log(pair[at]) for n, pair in enumerate(self.pairs)} for at in (0, 1)
        )
        found = paired_interval(now, before)
        assert found is not None  # there are two pairs or more
        mean, low, high = map(math.exp, found)
        return mean, low, high

    @property
    def row(self) -> dict[str, Any]:
        """Of the table."""
        ratio, low, high = self.ratio
        return {
            "variant": self.variant,
            "size": self.size,
            "before": median(one for one, _ in self.pairs),
            "now": median(other for _, other in self.pairs),
            "ratio": f"{ratio:.2f}",
            "interval": f"{low:.2f} to {high:.2f}",
        }


class Trees:
    """A process for each of two source trees."""

    def __init__(self, before: Path, here: Path) -> None:
        self._workers = Worker(before), Worker(here)

    def measure(self, variant: str, devices: int, batch: int, rounds: int) -> Line:
        """Rounds of both taken in turns, after a pair that warms up."""
        old, new = self._workers
        asked = (variant, devices, batch, devices)
        pairs = [(old.rate(*asked), new.rate(*asked)) for _ in range(rounds + 1)]
        line = Line(variant, devices, batch, tuple(pairs[1:]))
        print(line.row, flush=True)
        return line

    def end(self) -> None:
        """Let the processes end."""
        for worker in self._workers:
            worker.end()


def again_of(
    lines: Sequence[Line], before: Path, here: Path, pairs: int, rounds: int
) -> list[Line]:
    """Lines whose ratio came out below 1, and, at their sizes, the bare loop.

    Over pairs of new processes, of each the fastest of `rounds` rounds.
    """
    slower = [line for line in lines if line.ratio[0] < 1 and line.variant != BARE]
    sizes = dict.fromkeys((line.devices, line.batch) for line in slower)
    wanted = [(line.variant, line.devices, line.batch) for line in slower]
    wanted += [(BARE, *size) for size in sizes]
    found: dict[tuple[str, int, int], list[tuple[float, float]]] = {one: [] for one in wanted}
    for _ in range(pairs if wanted else 0):
        trees = Trees(before, here)
        for one, taken in found.items():
            both = trees.measure(*one, rounds).pairs
            taken.append((max(old for old, _ in both), max(new for _, new in both)))
        trees.end()
    return [Line(*one, tuple(taken)) for one, taken in found.items()]


def sentence(again: Sequence[Line], pairs: int, rounds: int) -> str:
    """What came of taking lines again."""
    told = [line for line in again if line.variant != BARE]
    if not told:
        return "No ratio of a method is below 1."
    found = []
    for line in again:
        ratio, low, high = line.ratio
        found.append(f"`{line.variant}` at {line.size} {ratio:.3f} ({low:.3f} to {high:.3f})")
    slower = sum(line.ratio[2] < 1 for line in told)
    count = "1 ratio of a method is" if len(told) == 1 else f"{len(told)} ratios of methods are"
    return (
        f"{count} below 1. Taken again, over {pairs} pairs of new processes, of each the fastest "
        f"of {rounds} rounds, with 95 % confidence: {'; '.join(found)}. Methods that are surely "
        f"below 1 then: {slower or 'none'}."
    )


def commit_of(tree: Path) -> str:
    """The short name of a source tree's commit."""
    return subprocess.run(
        ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


TEXT = """\
# The engine against an earlier commit

{environment}

The demo's ViT of 1.2 M parameters, 28 x 28 pixels, 50 tokens, cut 2, LoRA rank 8, float32, one
thread; all devices of a round in one pass (`training.pool` as many as there are), one step a device
and round. *before* is commit {before}, *now* commit {now}. Samples a second of the processor,
medians of {rounds} rounds taken in turns; *ratio* is the geometric mean of the ratios of rounds
side by side, and *95 %* where it lies by Student's t of their logarithms, for this pair of
processes: another pair may lie some percent elsewhere. `{bare}` is the
same code in both columns: how far its ratio is from 1 is what the machine's noise does. When this
began, other work kept {busy:.1f} of the machine's {cores} cores busy (mean of a minute).

{missing}

    python benchmarks/engine.py --before TREE {options} --write

{table}
{again}
"""
MISSING = """\
There was no GPU at hand. Not measured are therefore: samples a second on a GPU, for any method and
size; tf32 and bfloat16; CUDA graphs (`training.compile` there); copies between GPU and CPU; pools
sized by a GPU's memory. On a machine with a GPU they come of

    python benchmarks/engine_rates.py --model DINOV2 --data CIFAR10 \\
      --compile-at 64x8/bfloat16 --write

The table comes from:"""
THERE = """\
How fast this machine's GPU trains is not in the table: see `python benchmarks/engine_rates.py`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="source tree of the commit to compare with")
    parser.add_argument("--sizes", default="64x4,16x4", help="devices x batch, by commas")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of rounds, 2 or more")
    parser.add_argument(
        "--again", type=int, default=8, help="pairs of processes for lines below 1, 2 or more"
    )
    parser.add_argument("--work", action="store_true", help="be one of the two processes")
    parser.add_argument("--write", action="store_true", help="write benchmarks/reports/engine.md")
    options = parser.parse_args()
    if options.work:
        work()
        return
    if options.before is None:
        parser.error("--before: name the source tree of an earlier commit")
    if min(options.rounds, options.again) < 2:
        parser.error("--rounds, --again: an interval wants 2 pairs or more")
    from cutlayer.drawing import tables
    from environment import describe

    columns = (
        tables.Column("variant", "variant", "text"),
        tables.Column("size", "devices x batch", "text"),
        tables.Column("before", "samples a second before"),
        tables.Column("now", "now"),
        tables.Column("ratio", "ratio", "text"),
        tables.Column("interval", "95 %", "text"),
    )
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes.split(",")]
    busy = psutil.getloadavg()[0]
    before, here = options.before, Path(__file__).parents[1]
    trees = Trees(before, here)
    lines = [
        trees.measure(variant, devices, batch, options.rounds)
        for devices, batch in sizes
        for variant in (BARE, *VARIANTS)
    ]
    trees.end()
    again = again_of(lines, before, here, options.again, options.rounds)
    text = TEXT.format(
        environment=describe(), before=commit_of(before), now=commit_of(here),
        rounds=options.rounds, bare=BARE, busy=busy,
        cores=os.cpu_count(), missing=THERE if torch.cuda.is_available() else MISSING,
        options=f"--sizes {options.sizes} --rounds {options.rounds} --again {options.again}",
        table=tables.markdown([line.row for line in lines], columns),
        again=sentence(again, options.again, options.rounds),
    )  # fmt: skip
    print(text)
    if options.write:
        REPORTS.mkdir(exist_ok=True)
        (REPORTS / "engine.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
