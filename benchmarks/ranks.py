"""Speed over ranks of torchrun against one process, one thread each, measured side by side.

    python benchmarks/ranks.py [--ranks 2] [--rounds 3] [--write]

The demo's model, 16 devices with as many samples each, `sflora` and `tsflora`, two devices a pass,
tested after the last round only. Runs of one process and of several take turns; a round's seconds
are those of its record, testing left out, the first round of each run left out as it warms up.
"""

import argparse
import json
import subprocess
import sys
from os import environ
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from cutlayer.drawing import tables
from environment import describe

REPORTS = Path(__file__).parent / "reports"
JOB = {
    "data": {"train_samples": 1600, "test_samples": 100, "partition": {"kind": "iid"}},
    "devices": {"count": 16},
    "training": {"batch_size": 10, "pool": 2},
}
METHODS = ("sflora", "tsflora")


def rounds_of(method: str, ranks: int, rounds: int, folder: Path) -> tuple[list[float], bytes]:
    """The seconds of each round of a run after its first, and the adapter that it came to."""
    file = folder / "job.json"  # which is YAML, too
    training = {**JOB["training"], "rounds": rounds, "evaluate_every": rounds}
    file.write_text(json.dumps({**JOB, "training": training, "method": method}))
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    out = folder / f"{method}-{ranks}"
    command = [*(start if ranks > 1 else [sys.executable]), "-m", "cutlayer", "simulate"]
    subprocess.run(
        [*command, str(file), "--out", str(out)], check=True, stdout=subprocess.DEVNULL,
        env={**environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    rows = [json.loads(line) for line in (out / "rounds.jsonl").open()]
    took = [sum(s for stage, s in row["seconds"].items() if stage != "evaluate") for row in rows]
    return took[1:], (out / "adapter" / "adapter_model.safetensors").read_bytes()


def measure(ranks: int, rounds: int, turns: int) -> list[dict]:
    """A row a method."""
    found = []
    for method in METHODS:
        one, several = [], []
        for _ in range(turns):
            with TemporaryDirectory() as place:
                took, adapter = rounds_of(method, 1, rounds, Path(place))
                also, other = rounds_of(method, ranks, rounds, Path(place))
            one, several = one + took, several + also
            assert adapter == other, f"{method}: {ranks} ranks came to another adapter"
        found.append(
            {
                "method": method,
                "one": median(one),
                "several": median(several),
                "ratio": median(one) / median(several),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write reports/ranks.md")
    wanted = parser.parse_args()
    rows = measure(wanted.ranks, wanted.rounds, wanted.turns)
    columns = (
        tables.Column("method", "method", "text"),
        tables.Column("one", "s a round, one process", "number"),
        tables.Column("several", f"s a round, {wanted.ranks} ranks", "number"),
        tables.Column("ratio", "times as fast", "number"),
    )
    text = (
        f"# Speed over ranks of torchrun\n\n{describe()}\n\n"
        "16 devices of the demo, 100 samples each, batch 10, pool 2, one thread a process. "
        "Medians over rounds, testing left out; the adapters of one process and of several were "
        f"the same to the last bit.\n\n{tables.markdown(rows, columns)}\n"
    )
    print(text)
    if wanted.write:
        (REPORTS / "ranks.md").write_text(text)


if __name__ == "__main__":
    main()
