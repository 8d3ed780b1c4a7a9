"""Made-up runs for the tests of views and pages: records of any size, without training."""

from pathlib import Path

import numpy as np

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job, make_job
from cutlayer.record.rows import Row
from cutlayer.reports.views.runs import STAGES, Holdings, Patches, Places, Run, Spans

# The views of one run in a world, by the names that the page gives them.
VIEWS = {
    "headline", "job", "curves", "classes", "labels", "devices", "gantt", "allocation", "fleet",
    "patches",
}  # fmt: skip


def made_job(method: str = "tsflora", devices: int = 4, rounds: int = 3, seed: int = 0) -> Job:
    return make_job(
        {
            "method": method,
            "devices": {"count": devices},
            "training": {"rounds": rounds},
            "world": {},
            "seed": seed,
        }
    )


def made_rows(job: Job, accuracy: float = 0.5, megabytes: float = 1.0) -> list[Row]:
    """Every device in every round, with numbers of its own; accuracy rises to `accuracy`."""
    rng = np.random.default_rng(job.seed)
    devices, rounds = job.devices.count, job.training.rounds
    size = int(megabytes * 1e6 / devices)
    return [
        Row(
            round=number,
            decisions={
                m: Decision(1 + m % 4, 6 + m % 40, 4, 8, float(rng.uniform(1e4, 1e7)), 0.2)
                for m in rng.permutation(devices).tolist()
            },
            samples_trained=dict.fromkeys(range(devices), 32),
            loss=2.0 / (1 + number),
            traffic={m: [size, 0, 0, 0] for m in range(devices)},
            seconds={"device": 1.0},
            cpu_seconds=1.0,
            device_loss={m: float(rng.uniform(0.1, 2)) for m in range(devices)},
            accuracy=accuracy * (number + 1) / rounds,
            test_samples=100,
            macro_f1=accuracy,
            class_accuracy=[0.25, 0.75, None],
            confusion=[[0, 0, 10], [0, 1, 30], [1, 1, 45], [1, 2, 15]]
            if number == rounds - 1
            else [],
            held_out_accuracy=[0.5, *[None] * (devices - 1)],
            held_out_samples=[2, *[0] * (devices - 1)],
            label_mix_accuracy=rng.uniform(0, 1, devices).tolist(),
            virtual_s=2.0,
            joules={m: float(rng.uniform(0.1, 2)) for m in range(devices)},
        )
        for number in range(rounds)
    ]


def made_run(
    method: str = "tsflora",
    seed: int = 0,
    accuracy: float = 0.5,
    megabytes: float = 1.0,
    devices: int = 4,
    rounds: int = 3,
    name: str = "",
) -> Run:
    job = made_job(method, devices, rounds, seed)
    folder = Path("runs") / (name or f"{method}-{seed}")
    return Run(folder, job, made_rows(job, accuracy, megabytes))


def made_spans(run: Run, steps: int = 3) -> list[Spans]:
    """Timelines of all rounds with `steps` steps of every stage on every device."""
    rng = np.random.default_rng(0)
    devices, per_device = run.job.devices.count, steps * len(STAGES)
    found = []
    for row in run.rows:
        ends = rng.uniform(0, 0.1, (devices, per_device)).cumsum(axis=1)
        found.append(
            Spans(
                round=row.round,
                duration_s=float(ends.max()),
                devices=list(row.decisions),
                late=[],
                place=np.repeat(np.arange(devices), per_device),
                stage=np.tile(np.arange(per_device) % len(STAGES), devices),
                start_s=np.concatenate([np.zeros((devices, 1)), ends[:, :-1]], axis=1).ravel(),
                end_s=ends.ravel(),
            )
        )
    return found


def made_places(run: Run) -> Places:
    rng = np.random.default_rng(0)
    shape = (len(run.rows), run.job.devices.count)
    x, y = rng.uniform(-600, 600, (2, *shape))
    return Places(
        rounds=[row.round for row in run.rows],
        coverage_m=500.0,
        x_m=x,
        y_m=y,
        speed_mps=rng.uniform(20, 60, shape),
        in_coverage=np.hypot(x, y) < 500,
        uplink_bps=rng.lognormal(15, 2, shape),
    )


def made_patches(images: int = 2, side: int = 4) -> Patches:
    rng = np.random.default_rng(0)
    ranks = np.stack([rng.permutation(side * side) for _ in range(images)])
    return Patches(
        cut=2,
        score="cls",
        rest="merge",
        images=rng.integers(0, 255, (images, 28, 28, 1), dtype=np.uint8),
        labels=["bag"] * images,
        ranks=ranks,
        budgets=[2, 4, 8],
        own=4,
        predicted=[["bag", "shirt", "bag", "bag"]] * images,
    )


def made_holdings(run: Run, classes: int = 10) -> Holdings:
    counts = np.random.default_rng(0).integers(0, 40, (run.job.devices.count, classes))
    return Holdings([f"class {i}" for i in range(classes)], counts)
