"""Speed over ranks of torchrun against one process, one thread each, measured side by side.

    python benchmarks/ranks.py [--ranks 2,4] [--rounds 4] [--turns 3] [--write]

The demo's model, 16 devices with as many samples each, `sflora` and `tsflora`, two devices a pass,
tested after the last round only. Runs of one process and of several take turns; a round's seconds
are those of its record, testing left out, the first round of each run left out as it warms up.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from cutlayer.drawing import tables
from cutlayer.reports.views.statistics import paired_interval
from environment import describe

REPORTS = Path(__file__).parent / "reports"
DEVICES, SAMPLES, BATCH, POOL = 16, 100, 10, 2
GOAL_RANKS, GOAL = 2, 1.8
METHODS = ("sflora", "tsflora")


def job_of(method: str, rounds: int) -> dict[str, Any]:
    """The job of a run."""
    held = {"train_samples": DEVICES * SAMPLES, "test_samples": 100}
    return {
        "data": {**held, "partition": {"kind": "iid"}},
        "devices": {"count": DEVICES},
        "training": {
            "batch_size": BATCH, "pool": POOL, "rounds": rounds, "evaluate_every": rounds,
            "compute": "cpu",
        },
        "method": method,
    }  # fmt: skip


def rounds_of(method: str, ranks: int, rounds: int, folder: Path) -> tuple[float, bytes]:
    """Median seconds of a round of a run after its first, and the adapter that it came to."""
    file = folder / "job.json"  # which is YAML, too
    file.write_text(json.dumps(job_of(method, rounds)))
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    out = folder / f"{method}-{ranks}"
    command = [*(start if ranks > 1 else [sys.executable]), "-m", "cutlayer", "simulate"]
    subprocess.run(
        [*command, str(file), "--out", str(out)], check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    rows = [json.loads(line) for line in (out / "rounds.jsonl").open(encoding="utf-8")]
    took = [sum(s for stage, s in row["seconds"].items() if stage != "evaluate") for row in rows]
    return median(took[1:]), (out / "adapter" / "adapter_model.safetensors").read_bytes()


def measure(ranks: list[int], rounds: int, turns: int) -> list[dict[str, Any]]:
    """A row for each method and number of ranks."""
    found = []
    for method in METHODS:
        took: dict[int, list[float]] = {count: [] for count in (1, *ranks)}
        for _ in range(turns):
            with TemporaryDirectory() as place:
                adapters = set()
                for count, seconds in took.items():
                    second, adapter = rounds_of(method, count, rounds, Path(place))
                    seconds.append(second)
                    adapters.add(adapter)
            assert len(adapters) == 1, f"{method}: ranks came to another adapter"
        one, *several = (dict(enumerate(map(math.log, seconds))) for seconds in took.values())
        for count, logs in zip(ranks, several, strict=True):
            interval = paired_interval(one, logs)
            assert interval is not None  # there are two turns or more
            ratio, low, high = map(math.exp, interval)
            found.append(
                {
                    "method": method,
                    "ranks": count,
                    "one": median(took[1]),
                    "several": median(took[count]),
                    "ratio": ratio,
                    "interval": f"{low:.2f} to {high:.2f}",
                }
            )
            print(found[-1], flush=True)
    return found


def goal(rows: list[dict[str, Any]]) -> str:
    """A sentence on what two ranks reached."""
    reached = [row for row in rows if row["ranks"] == GOAL_RANKS]
    if not reached:
        return ""
    told = ", ".join(f"`{row['method']}` {row['ratio']:.2f}" for row in reached)
    return f"{GOAL_RANKS} ranks should be at least {GOAL} times as fast as one process: {told}.\n"


COLUMNS = (
    tables.Column("method", "method", "text"),
    tables.Column("ranks", "ranks", "count"),
    tables.Column("one", "s a round, one process"),
    tables.Column("several", "s a round, ranks"),
    tables.Column("ratio", "times as fast"),
    tables.Column("interval", "95 %", "text"),
)
TEXT = """\
# Speed over ranks of torchrun

{environment}

{devices} devices of the demo, {samples} samples each, batch {batch}, `training.pool` {pool}, one
thread a process, on the CPU. Medians over {rounds} rounds of {turns} runs in turns, testing left
out; *times as fast* is the geometric mean over the turns, and *95 %* where it lies by Student's t
of their logarithms. When this began, other work kept {busy:.1f} of the machine's {cores} cores busy
(mean of a minute). The adapters of one process and of all ranks were the same to the last bit.

    {command}

{table}
{goal}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", default="2,4", help="numbers of ranks, by commas")
    parser.add_argument("--rounds", type=int, default=4, help="2 or more, the first left out")
    parser.add_argument("--turns", type=int, default=3, help="2 or more")
    parser.add_argument("--write", action="store_true", help="write reports/ranks.md")
    wanted = parser.parse_args()
    if min(wanted.rounds, wanted.turns) < 2:
        parser.error("--rounds, --turns: 2 or more")
    busy = psutil.getloadavg()[0]
    rows = measure([int(count) for count in wanted.ranks.split(",")], wanted.rounds, wanted.turns)
    given = f"--ranks {wanted.ranks} --rounds {wanted.rounds} --turns {wanted.turns} --write"
    text = TEXT.format(
        environment=describe(), devices=DEVICES, samples=SAMPLES, batch=BATCH, pool=POOL,
        rounds=wanted.rounds - 1, turns=wanted.turns, busy=busy, cores=os.cpu_count(),
        command=f"python benchmarks/ranks.py {given}", table=tables.markdown(rows, COLUMNS),
        goal=goal(rows),
    )  # fmt: skip
    print(text)
    if wanted.write:
        (REPORTS / "ranks.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
