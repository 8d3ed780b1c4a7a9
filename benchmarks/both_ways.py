"""Few bytes both ways where the devices train too: klt up and down, and changes, over seeds.

    python benchmarks/both_ways.py --runs DIR --write

Three groups of runs: the bundled demo; with --model DINOV2 --data CIFAR10, a real ViT on real
images; with --texts R8.YAML, the job of docs/texts.md (MiniLM). DINOV2 is a DINOv2-small checkpoint
folder, CIFAR10 a folder with train.parquet and test.parquet. Finished runs below DIR are kept.
"""

import argparse
import datetime
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from cutlayer.drawing import tables
from cutlayer.job import Job, change_job, load_job, make_job
from cutlayer.record.data_file import own_bytes_of
from cutlayer.record.row_lines import read_rows
from cutlayer.record.rows import Row
from cutlayer.reports.views.statistics import paired_interval
from environment import command, describe
from finished_runs import finish_run

REPORTS = Path(__file__).parent / "reports"
SEEDS = (0, 1, 2)
GOAL = 60
"""How many times fewer bytes of activations and gradients than float32 a visit is to take."""
FLOAT32 = "float32"
FEW: dict[str, Any] = {
    "uplink": {"codec": "klt", "rate_bits": 0.5},
    "downlink": {"codec": "klt", "rate_bits": 0.25},
}
CASES: dict[str, dict[str, Any]] = {
    FLOAT32: {},
    "klt 0.5 up, 0.25 down": FEW,
    "the same, changes up": FEW | {"uplink": FEW["uplink"] | {"change": True}},
}
CHANGES = "the same, changes up"

Line = dict[str, Any]
"""A case with one figure a seed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a DINOv2-small checkpoint folder")
    parser.add_argument("--data", type=Path, help="a folder with CIFAR-10")
    parser.add_argument("--train", type=int, default=160, help="images of CIFAR-10 to train on")
    parser.add_argument("--test", type=int, default=300, help="images of CIFAR-10 to test on")
    parser.add_argument("--visits", type=int, default=6, help="visits of each image of CIFAR-10")
    parser.add_argument("--texts", type=Path, help="the job of docs/texts.md")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--write", action="store_true", help="write reports/both_ways.md")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    groups = {name: measured(name, job, options) for name, job in jobs(options)}
    text = TEXT.format(
        environment=describe(),
        tables="\n".join(
            f"## {name}\n\n{tables.markdown(lines, COLUMNS)}" for name, lines in groups.items()
        ),
        findings="\n".join(f"- {one}" for one in findings(groups)),
        command=command("benchmarks/both_ways.py"),
        missing=missing(options),
    )
    print(text)
    if options.write:
        (REPORTS / "both_ways.md").write_text(text)


def missing(options: argparse.Namespace) -> str:
    """What was not measured, and the options that measure it."""
    groups = {
        "DINOv2-S on CIFAR-10 (`--model DINOV2 --data CIFAR10`)": options.model,
        "MiniLM on Reuters R8 (`--texts R8.YAML`)": options.texts,
    }
    left = [name for name, given in groups.items() if not given]
    return f"\nNot measured: {' and '.join(left)}.\n" if left else ""


def jobs(options: argparse.Namespace) -> Iterator[tuple[str, Job]]:
    """The groups of runs: what each is called, and its job in float32."""
    training: dict[str, Any] = {"rounds": 10, "batch_size": 16, "lr": 3e-3, "evaluate_every": 10}
    demo = make_job(
        {
            "model": {"cut": 4},
            "data": {"train_samples": 400, "test_samples": 500},
            "devices": {"count": 4},
            "method": {"name": "sflora"},
            "training": training,
        }
    )
    yield "The demo: 400 images of 28 x 28, ten visits, cut 4", demo
    if options.texts:
        texts = load_job(options.texts, ["method=sflora"])
        yield f"MiniLM on Reuters R8: 500 texts, {texts.training.rounds} visits, cut 3", texts
    if options.model:
        yield (
            f"DINOv2-S on CIFAR-10 at 98 px: {options.train} images, {options.visits} visits, "
            "cut 4",
            make_job(
                {
                    "model": {"path": str(options.model), "image_size": 98, "cut": 4},
                    "data": {
                        "source": "parquet",
                        "path": str(options.data),
                        "input_column": "image",
                        "train_samples": options.train,
                        "test_samples": options.test,
                    },
                    "devices": {"count": 4},
                    "method": {"name": "sflora"},
                    "training": training
                    | {"rounds": options.visits, "evaluate_every": options.visits, "batch_size": 8},
                }
            ),
        )


def measured(group: str, job: Job, options: argparse.Namespace) -> list[Line]:
    """A line for each case that the job can do; what is not there yet is trained."""
    lines = []
    for case, settings in CASES.items():
        if case == CHANGES and job.data.source == "table":
            continue  # changes are for images, whose samples have one length
        changed = make_job(job.model_dump(mode="json") | {"method": {"name": "sflora", **settings}})
        found = [
            of_run(*trained(f"{group.split(':')[0]} {case}", one, options))
            for one in (change_job(changed, [f"seed={seed}"]) for seed in options.seeds)
        ]
        lines.append({"case": case, **{key: [one[key] for one in found] for key in found[0]}})
    return [against_float32(line, lines[0]) for line in lines]


def trained(name: str, job: Job, options: argparse.Namespace) -> tuple[list[Row], Path]:
    """The record and folder of a run, which is trained or goes on where it is not finished."""
    folder = options.runs / f"{name} {job.seed}".replace(", ", "-").replace(" ", "-")
    if not (folder / "adapter").exists():
        finish_run(job, folder)
        print(f"{datetime.datetime.now():%H:%M:%S} {folder.name}", file=sys.stderr, flush=True)
    return read_rows(folder), folder


def of_run(rows: Sequence[Row], folder: Path) -> Line:
    """What a run came to.

    visit: bytes of activations and gradients in the last round; up, back: the two apart; total:
    those of all rounds, and what bases took; own: of the samples themselves, each sent once.
    """
    traffic = [[sum(one) for one in zip(*row.traffic.values(), strict=True)] for row in rows]
    last, own = rows[-1], own_bytes_of(folder)
    through = last.accuracy_through_cut
    return {
        "accuracy": last.accuracy,
        "through_cut": last.accuracy if through is None else through,
        "up": traffic[-1][0],
        "back": traffic[-1][1],
        "visit": sum(traffic[-1][:2]),
        "total": sum(sum(one[:2]) + sum(one[4:5]) for one in traffic),
        "adapters": sum(sum(one[2:4]) for one in traffic),
        "own": own.get("jpeg", own.get("zstd")),
    }


def against_float32(line: Line, whole: Line) -> Line:
    """The line with its bytes against those of float32 with the same seeds, and its samples'."""
    ratios = {
        f"{key}_ratio": [w / one for w, one in zip(whole[key], line[key], strict=True)]
        for key in ("up", "visit", "total")
    }
    lost = [w - one for w, one in zip(whole["accuracy"], line["accuracy"], strict=True)]
    over = [total / own for total, own in zip(line["total"], line["own"], strict=True)]
    return line | ratios | {"lost": lost, "over": over}


def findings(groups: dict[str, list[Line]]) -> Iterator[str]:
    """Whether the goal is reached, at which price in accuracy, by group and case."""
    for group, (whole, *lines) in groups.items():
        name = group.split(":")[0]
        for line in lines:
            fewer, less = mean(line["visit_ratio"]), min(line["visit_ratio"])
            reached = "reached" if less >= GOAL else "not reached"
            yield (
                f"{name}, {line['case']}: {fewer:.0f} times fewer bytes both ways in the last "
                f"round, {less:.0f} at least (the goal of {GOAL} is {reached}), and "
                f"{mean(line['total_ratio']):.0f} in all rounds with the first ones and the bases; "
                f"up alone {mean(line['up_ratio']):.0f}. {price(line, whole)}"
            )


def price(line: Line, whole: Line) -> str:
    """The difference in accuracy from float32 that seeds tell, in words."""
    ours, theirs = (dict(enumerate(one["accuracy"])) for one in (line, whole))
    found = paired_interval(ours, theirs)
    if found is None:
        return "One seed does not tell accuracies apart."
    difference, low, high = (100 * one for one in found)
    said = "seeds do not tell it from 0" if low <= 0 <= high else "more than that of seeds"
    return (
        f"Accuracy is {difference:+.1f} points from float32's (95 % between {low:+.1f} and "
        f"{high:+.1f}, {len(ours)} seeds): {said}."
    )


COLUMNS = (
    tables.Column("case", "what crosses", "text"),
    tables.Column("accuracy", "accuracy", "percent"),
    tables.Column("lost", "less than float32", "percent"),
    tables.Column("through_cut", "through the cut", "percent"),
    tables.Column("up", "up, last round", "bytes"),
    tables.Column("back", "down, last round", "bytes"),
    tables.Column("visit_ratio", "fewer a visit", "ratio"),
    tables.Column("total", "in all", "bytes"),
    tables.Column("total_ratio", "fewer in all", "ratio"),
    tables.Column("over", "over JPEG or text", "ratio"),
    tables.Column("adapters", "adapters", "bytes"),
)

TEXT = """\
# Few bytes both ways, where devices train

{environment}

Method `sflora`: adapters on both sides of the cut are trained, and gradients come back. *klt*: with
its rate in bits a value; *changes*: a sample goes up as what changed since its last visit
(`uplink.change`). Mean over seeds, with the range. *fewer*: activations and gradients, headers
included, against float32 with the same seed; *a visit*: in the last round, once codecs are fitted;
*in all*: of all rounds, with the first samples and gradients in 4 bits and the bases. Adapters are
beside it. *over JPEG or text*: *in all* against the training samples themselves, once: as JPEG of
quality 75 at the model's size, or as texts under zstandard. No learning rate was tuned.

    {command}
{missing}
{tables}
## What the figures say

{findings}
"""


if __name__ == "__main__":
    main()
