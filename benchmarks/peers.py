"""The same work in other frameworks, side by side in one run: speed, start-up, memory and bytes.

    python benchmarks/peers.py --environments DIR [--model DINOV2 --data CIFAR10] [--write]

Makes a virtual environment for each framework below DIR (some minutes, and 6 GB), with the releases
of peer_runs.py, and has each train the same model on the same images, all its processes on one
core: plain transformers and PEFT, pfl-research, Flower's simulation and cutlayer by FedAvg of LoRA
adapters, and NVFLARE's Collab and cutlayer by split learning. Where only the last blocks have
adapters, cutlayer cuts before them and computes once what the frozen blocks make of a sample. What
does each framework's part is in peer_work/. A framework that cannot be installed, or does not do
the work, is named with the reason.
"""

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from cutlayer.job import Job, make_job
from cutlayer.model.files import find_file
from cutlayer.train.parts import load_parts
from environment import describe
from peer_runs import PeerError, Taken, environment, run
from peers_report import AGAIN, OURS, Measured, report

REPORT = Path(__file__).parent / "reports" / "peers.md"
LIMIT_S = 900
"""Seconds after which one framework's run counts as hanging."""


@dataclass(frozen=True)
class Task:
    """One comparison: which devices train what, and who does it.

    blocks: how many blocks, from the last, have adapters; None: all. cutlayer cuts before them.
    """

    title: str
    devices: int
    samples: int
    batch: int
    rounds: int
    method: dict[str, Any]
    frameworks: tuple[str, ...]
    blocks: int | None = None


AVERAGED = ("peft", "pfl", "flower", "cutlayer")
FROZEN = {
    "name": "st-sflora-full",
    "server_adapter": "averaged",
    "uplink": {"reuse": True},
}
"""FedAvg of the adapters after the cut; a sample goes through the blocks before it once."""
PARTLY = (*AVERAGED, AGAIN)
TASKS = (
    Task("10 devices, 8 steps each", 10, 64, 8, 3, {"name": "fedlora"}, AVERAGED),
    Task("50 devices, 1 step each", 50, 4, 4, 3, {"name": "fedlora"}, AVERAGED),
    Task("10 devices, adapters in the last block alone", 10, 64, 8, 5, FROZEN, PARTLY, blocks=1),
    Task("10 devices, adapters in the last 2 blocks alone", 10, 64, 8, 5, FROZEN, PARTLY, blocks=2),
    Task(
        "4 devices, 4 steps each, through the cut",
        4, 32, 8, 3, {"name": "sflora", "server_adapter": "shared"}, ("nvflare", "cutlayer"),
    ),
)  # fmt: skip


def job_of(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """The task as a job of cutlayer."""
    model: dict[str, Any] = {}
    data: dict[str, Any] = {"source": "demo"}
    if options.model:
        model = {"path": str(options.model.resolve()), "image_size": 98}
        data = {"source": "parquet", "path": str(options.data.resolve()), "input_column": "image"}
    if task.blocks is not None:
        few = {**data, "train_samples": 100, "test_samples": 10}
        cut = depth(make_job({"model": model, "data": few})) - task.blocks
        model |= {"cut": cut, "lora": {"side": "server"}}
    return {
        "model": model,
        "data": {
            **data,
            "train_samples": task.devices * task.samples,
            "test_samples": 10,
            "partition": {"kind": "iid", "min_samples": 1},
        },
        "devices": {"count": task.devices},
        "method": task.method,
        "training": {
            "rounds": task.rounds,
            "batch_size": task.batch,
            "evaluate_every": task.rounds,
        },
    }


def depth(job: Job) -> int:
    """Blocks of the job's model."""
    return load_parts(job).model.spec.depth


def write_work(values: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Write the job, the same with frozen blocks at every visit, and the same work with its data
    for all others; returns the files by who reads them.
    """
    job = make_job(values)
    parts = load_parts(job)
    spec, only_after_cut = parts.model.spec, job.model.lora.side == "server"
    config = find_file(spec.path, "config.json")
    assert config is not None
    order = [index for share in parts.shares for index in share]
    held = parts.train.subset(order)
    pixels = np.concatenate(
        [
            parts.preprocess(held.subset(range(start, min(start + 64, len(held)))).inputs)[
                "pixel_values"
            ].numpy()
            for start in range(0, len(held), 64)
        ]
    )
    data = folder / "data.npz"
    np.savez(data, pixels=pixels, labels=held.labels.astype(np.int64))
    work = {
        "model": str(config.parent.resolve()),
        "classes": len(parts.train.classes),
        "rank": job.model.lora.rank,
        "alpha": job.model.lora.alpha,
        "targets": ["q_proj", "v_proj", "query", "value"],
        "devices": job.devices.count,
        "samples": len(held) // job.devices.count,
        "batch": job.training.batch_size,
        "rounds": job.training.rounds,
        "lr": job.training.lr,
        "cut": job.cut,
        "blocks": list(range(job.cut, spec.depth)) if only_after_cut else None,
        "data": str(data),
    }
    files = {name: folder / f"{name}.json" for name in (OURS, AGAIN, "others")}
    files[OURS].write_text(json.dumps(values))
    again = {**values["method"], "uplink": {"reuse": False}}
    files[AGAIN].write_text(json.dumps({**values, "method": again}))
    files["others"].write_text(json.dumps(work))
    return files


def measure(task: Task, options: argparse.Namespace, missing: dict[str, str]) -> list[Measured]:
    """Every framework's runs of a task, in turns; missing: why a framework cannot be had."""
    found: dict[str, list[Taken]] = {name: [] for name in task.frameworks}
    why = {name: missing[name] for name in task.frameworks if name in missing}
    with tempfile.TemporaryDirectory() as folder:
        files = write_work(job_of(task, options), Path(folder))
        for _ in range(options.repeats):
            for name in task.frameworks:
                if name in why:
                    continue
                try:
                    python = environment(name, options.environments)
                    work = files.get(name, files["others"])
                    program = OURS if name == AGAIN else name
                    found[name].append(run(program, python, work, LIMIT_S))
                except PeerError as reason:
                    why[name] = str(reason)
                said = why.get(name) or asdict(found[name][-1])
                print(f"{task.title}, {name}: {said}", flush=True)
    samples = task.devices * task.samples
    return [Measured(name, samples, found[name], why.get(name)) for name in task.frameworks]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environments", type=Path, required=True, help="folder, made if missing")
    parser.add_argument("--model", type=Path, help="folder of DINOv2 (default: the demo's ViT)")
    parser.add_argument("--data", type=Path, help="CIFAR-10, for --model")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each framework")
    parser.add_argument("--write", action="store_true", help="write benchmarks/reports/peers.md")
    options = parser.parse_args()
    if bool(options.model) != bool(options.data):
        parser.error("--model, --data: give both, or neither for the demo's")
    options.environments.mkdir(parents=True, exist_ok=True)
    missing = {}
    for name in dict.fromkeys(name for task in TASKS for name in task.frameworks):
        try:
            environment(name, options.environments)
        except PeerError as reason:
            missing[name] = str(reason)
    busy = psutil.getloadavg()[1]
    tables = {task.title: measure(task, options, missing) for task in TASKS}
    text = report(tables, describe(), options, busy, {task.title: asdict(task) for task in TASKS})
    print(text)
    if options.write:
        REPORT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
