"""What differential privacy of the adapters costs: accuracy against epsilon on the demo.

    python benchmarks/dp.py --runs DIR [--seeds 0 1 2] [--train 300]
    python benchmarks/dp.py --runs DIR --report

The demo's job (ten devices, Dirichlet 0.3, `sflora`) with `--train` of its training images: without
privacy, with bounds alone, and with noise, hiding samples or whole devices. The noise follows from
the job's seed, so that a run can be repeated. Finished runs are kept. Needs dp-accounting
(cutlayer[privacy]). `--report` writes benchmarks/reports/dp.md and what docs/threat.md shows of it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cutlayer.drawing import tables
from cutlayer.drawing.tables import Column
from cutlayer.job import Job, change_job
from cutlayer.rounds.progress import Silent
from cutlayer.simulation.demo import demo_job
from cutlayer.simulation.simulate import simulate
from environment import describe
from shared_blocks import DOCS, copy_block, marked

REPORT = Path(__file__).parent / "reports" / "dp.md"
CLASSES = 10
SAMPLE = ("privacy.unit=sample", "privacy.clip_norm=0.5")
DEVICE = ("privacy.unit=device", "privacy.clip_norm=0.5")
LINES: dict[str, tuple[str, ...]] = {
    "no privacy": (),
    "samples, bounds alone": (*SAMPLE, "privacy.noise_multiplier=0"),
    **{
        f"samples, noise {noise:g}": (*SAMPLE, f"privacy.noise_multiplier={noise}")
        for noise in (0.25, 0.5, 1, 2)
    },
    **{
        f"devices, noise {noise:g}": (*DEVICE, f"privacy.noise_multiplier={noise}")
        for noise in (0.25, 1)
    },
}


def job_of(line: str, seed: int, train: int) -> Job:
    every = [f"data.train_samples={train}", "data.test_samples=400", "training.pool=10"]
    every += ["training.evaluate_every=100"]
    settings = list(LINES[line])
    if any(one.startswith("privacy.noise_multiplier") for one in settings):
        settings.append("privacy.noise_from=seed")
    return change_job(demo_job(seed), [*every, *settings])


def run_all(options: argparse.Namespace) -> None:
    """All runs that are not there yet, one after another."""
    torch.set_num_threads(1)
    options.runs.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for line in LINES:
            path = options.runs / f"{line.replace(' ', '_').replace(',', '')}-{seed}.json"
            if path.exists():
                continue
            job = job_of(line, seed, options.train)
            row = simulate(job, out=path.with_suffix(""), progress=Silent()).rows[-1]
            found = {"line": line, "seed": seed, "train": options.train, "epsilon": row.epsilon}
            found |= {"accuracy": row.accuracy, "tested": row.test_samples, "delta": row.delta}
            path.write_text(json.dumps(found))
            print(path.name, flush=True)


def report(runs: Path) -> str:
    """The page of all runs."""
    found = [json.loads(path.read_text()) for path in sorted(runs.glob("*.json"))]
    found = [one for one in found if one["line"] in LINES]
    seeds = sorted({one["seed"] for one in found})
    table: list[dict[str, Any]] = []
    for line in LINES:
        own = [one for one in found if one["line"] == line]
        if own:
            table.append(
                {
                    "line": line,
                    "epsilon": own[0]["epsilon"],
                    "accuracy": [one["accuracy"] for one in own],
                    "seeds": len(own),
                }
            )
    columns = [
        Column("line", "what is hidden", "text"),
        Column("epsilon", "epsilon"),
        Column("accuracy", "accuracy", "percent"),
        Column("seeds", "seeds", "count"),
    ]
    delta = next(one["delta"] for one in found if one["delta"])
    setting = (
        f"The demo's job on {found[0]['train']} training images: ten devices, Dirichlet 0.3, four "
        f"rounds of one epoch; accuracy on {found[0]['tested']:,} test images, where guessing has "
        f"{100 / CLASSES:.0f} %, mean and range of seeds {', '.join(map(str, seeds))}; epsilon at "
        f"delta {delta:g} of the device that took part in all rounds, no amplification by sampling "
        "counted. *noise*: its standard deviation in units of the bound. A dash: nothing is hidden."
    )
    lines = [
        "# Accuracy against epsilon",
        "",
        describe(),
        "",
        f"    python benchmarks/dp.py --runs DIR --train {found[0]['train']}",
        "",
        marked(REPORT.name, f"{setting}\n\n{tables.markdown(table, columns)}"),
        *findings(table),
    ]
    return "\n".join(lines) + "\n"


def findings(table: list[dict[str, Any]]) -> list[str]:
    """What the figures say, computed from them."""
    means = {one["line"]: 100 * float(np.mean(one["accuracy"])) for one in table}
    plain = means["no privacy"]
    said = []
    for line, mean in means.items():
        if line != "no privacy":
            epsilon = next(one["epsilon"] for one in table if one["line"] == line)
            hidden = "nothing hidden" if epsilon is None else f"epsilon {epsilon:.3g}"
            said.append(f"- *{line}*: {mean - plain:+.1f} points ({hidden}).")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if not options.report:
        run_all(options)
    REPORT.write_text(report(options.runs))
    copy_block(REPORT, DOCS / "threat.md")


if __name__ == "__main__":
    main()
