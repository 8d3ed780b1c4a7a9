"""Bytes and perplexity of a language model that is fine-tuned through the cut: SmolLM2-135M on E2E.

    python benchmarks/language.py --model DIR --data DIR --runs DIR [--only NAME ...] --write

--model: the folder that docs/language.md unpacks. --data: E2E's train.jsonl and test.jsonl
(prompts with completions). --pairs, --visits, --tests, --batch and --cut: the size; 4416, 5, 4693,
8 and 10 are the whole of it. --own: texts of the server's own, which codecs are fitted to. --texts:
prompts that each trained model answers.

Every run leaves a line in benchmarks/reports/language.jsonl as soon as it is done, and runs that
have theirs are not made again; unfinished ones go on in --runs. --write: make
benchmarks/reports/language.md of the lines of this size, and what docs/language.md shows of it;
its table has the runs with --seed, and its findings all seeds. --only-report trains nothing.
--report gives the report another name.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cutlayer
from cutlayer.allocate.round_shape import Traffic
from cutlayer.inference.text_scores import score_texts
from cutlayer.inference.trained import Trained
from cutlayer.job import Job, load_job, make_job
from cutlayer.model.families import describe as describe_model
from cutlayer.planning.known.method_costs import device_memory_bytes
from cutlayer.record.data_file import own_bytes_of
from cutlayer.record.row_lines import read_rows
from cutlayer.record.rows import Row
from cutlayer.rounds.progress import Silent
from cutlayer.train.evaluate import evaluate, unsplit
from cutlayer.train.parts import first_adapter, load_parts
from cutlayer.train.task import task_of
from environment import describe
from language_report import (
    AT_RANDOM,
    BEFORE,
    DEVICES,
    FROZEN,
    KNOWN,
    LEARNT,
    TAIL,
    WEIGHTED,
    is_whole,
    write,
)  # fmt: skip
from run_lines import Line, RunLines

REPORTS = Path(__file__).parent / "reports"
SCALE = (
    "pairs", "own", "visits", "tests", "batch", "cut", "lr", "schedule", "precision", "texts",
)  # fmt: skip
"""The settings that all runs of one report share."""


def klt(rate: float, **more: Any) -> Line:
    return {"codec": "klt", "rate_bits": rate, **more}


def sent_once(rate: float, **more: Any) -> Line:
    """A basis fitted to texts of the server's own; activations are named at later visits."""
    return {"name": "lean", "uplink": klt(rate, reuse=True, fit="calibration", **more)}


def at_the_tail(down: float, back: float, **more: Any) -> Line:
    """Rates of features and of their gradients."""
    return {"tail_downlink": klt(down, **more), "tail_uplink": klt(back, **more)}


ANSWERS = {"tail_tokens": "learnt"}


def own_tail(up: float, down: float, back: float, *more: str) -> tuple[str, Line]:
    """A line's name, and its method: the rates of all three ways, whose bases are fitted to texts
    of the server's own.

    more: WEIGHTED, AT_RANDOM.
    """
    ways = at_the_tail(down, back, fit="calibration", weighting=WEIGHTED in more)
    ways["tail_uplink"]["rounding"] = "stochastic" if AT_RANDOM in more else "nearest"
    name = f"u-shape, klt {up:g}/{down:g}/{back:g}{LEARNT}{''.join(more)}"
    return name, sent_once(up) | ways | ANSWERS


OWN_TAILS: tuple[tuple[Any, ...], ...] = (
    (0.7, 1.5, 1.1), (0.7, 1.5, 1.1, WEIGHTED),
    (0.7, 1.5, 2.3, WEIGHTED), (0.7, 1.5, 2.3, WEIGHTED, AT_RANDOM),
    (0.75, 1.7, 1.2, WEIGHTED, AT_RANDOM),
    (1, 2, 1.5, WEIGHTED, AT_RANDOM),
    (1.2, 2.2, 1.5, WEIGHTED), (1.2, 2.2, 1.5, AT_RANDOM), (1.2, 2.2, 1.5, WEIGHTED, AT_RANDOM),
)  # fmt: skip
FLOAT = {"codec": "quantize", "bits": 32, "entropy": "none"}
SENT = {"name": "lean", "uplink": FLOAT | {"reuse": False}}
FLOATS = {"tail_downlink": FLOAT, "tail_uplink": FLOAT}
METHODS: dict[str, Line] = {
    FROZEN: SENT,
    "frozen, klt 0.42": sent_once(0.42),
    "frozen, klt 0.43": sent_once(0.43),
    TAIL: SENT | FLOATS,
    "u-shape, klt 0.5/1/0.5": sent_once(0.5) | at_the_tail(1, 0.5),
    f"u-shape, klt 0.75/1.75/0.9{LEARNT}": sent_once(0.75) | at_the_tail(1.75, 0.9) | ANSWERS,
    f"u-shape, klt 0.42/1.5/2.1{LEARNT}": sent_once(0.42) | at_the_tail(1.5, 2.1) | ANSWERS,
    **dict(own_tail(*one) for one in OWN_TAILS),
    "frozen, klt 1": sent_once(1),
    "frozen, klt 2": sent_once(2),
    "frozen, klt 0.35": sent_once(0.35),
    "frozen, klt 0.7": sent_once(0.7),
    f"frozen, klt 0.42{KNOWN}": sent_once(0.42, known_tokens=True),
    f"frozen, klt 0.4{KNOWN}": sent_once(0.4, known_tokens=True),
    f"frozen, klt 0.39{KNOWN}": sent_once(0.39, known_tokens=True),
    f"frozen, klt 0.21{KNOWN}": sent_once(0.21, known_tokens=True),
    "sflora, float32": {"name": "sflora"},
    "fedlora": {"name": "fedlora"},
    "centralized": {"name": "centralized"},
    "sflora, klt": {"name": "sflora", "uplink": klt(0.5), "downlink": klt(0.25)},
}


def write_data(options: argparse.Namespace) -> None:
    """Tables of the pairs to train on, others for the server, and those to test on."""
    rng = np.random.default_rng(options.seed)
    lines = (options.data / "train.jsonl").read_text().splitlines()
    order = rng.permutation(len(lines))
    tests = (options.data / "test.jsonl").read_text().splitlines()
    references: dict[str, list[str]] = {}
    for line in tests:
        references.setdefault(json.loads(line)["prompt"], []).append(line)
    prompts = list(references)
    asked: list[str] = []
    for number in rng.permutation(len(prompts)):
        asked += references[prompts[number]][: options.references]
    parts = {
        "calibration": [lines[i] for i in order[: options.own]],
        "train": [lines[i] for i in order[options.own :][: options.pairs]],
        "test": asked[: options.tests],
    }
    options.runs.mkdir(parents=True, exist_ok=True)
    for name, chosen in parts.items():
        path = options.runs / f"{name}.jsonl"
        text = "".join(line + "\n" for line in chosen)
        if path.exists() and path.read_text() != text:
            raise SystemExit(
                f"--runs: {options.runs} holds runs of another size or seed: give a new folder"
            )
        path.write_text(text)


def job_of(name: str, options: argparse.Namespace, seed: int) -> Job:
    """The job of a line."""
    tail = {"tail": 0 if LEARNT in name else 2} if name.startswith("u-shape") else {}
    data: Line = {"source": "table", "path": str(options.runs / "train.jsonl")}
    data |= {"test_path": str(options.runs / "test.jsonl"), "calibration": None}
    if name.startswith(("frozen, klt", "u-shape, klt")):
        data["calibration"] = str(options.runs / "calibration.jsonl")
    return make_job(
        {
            "data": data | {"partition": {"kind": "iid", "min_samples": 1}},
            "model": {
                "path": str(options.model), "cut": options.cut, "max_tokens": 80, **tail,
            },
            "devices": {"count": DEVICES},
            "training": {
                "rounds": options.visits, "batch_size": options.batch, "lr": options.lr,
                "evaluate_every": options.visits, "precision": options.precision,
                "schedule": options.schedule,
            },
            "method": METHODS[name],
            "seed": seed,
        }
    )  # fmt: skip


def run_all(options: argparse.Namespace, lines: RunLines) -> None:
    """All runs that have no line yet, one after another."""
    torch.set_num_threads(1)
    write_data(options)
    seed = options.seed
    if lines.latest(name=BEFORE, seed=seed) is None:
        job = job_of(FROZEN, options, seed)
        parts = load_parts(job)
        adapter = first_adapter(job, parts.model)
        whole = unsplit(parts.model, parts.preprocess, adapter)
        tested = evaluate(task_of(job, parts.model.spec), whole, parts.test)
        line: Line = {"name": BEFORE, "seed": seed, "perplexity": tested.perplexity}
        if options.texts:
            of = Trained(
                options.runs, job, parts.model, parts.preprocess, adapter, parts.test.classes
            )
            line["bleu"] = score_texts(of, parts.test, options.texts).bleu
        keep(lines, line)
    for name in options.only or METHODS:
        line = lines.latest(name=name, seed=seed)
        if line is None or not is_whole(line):
            keep(lines, {"seed": seed, **run(name, options)})


def keep(lines: RunLines, line: Line) -> None:
    """Write a line, and say so."""
    lines.append(line | {"where": describe()})
    print(json.dumps(lines.all[-1]), flush=True)


def run(name: str, options: argparse.Namespace) -> Line:
    """Make a run, or go on with it, and what it came to."""
    job = job_of(name, options, options.seed)
    folder = options.runs / name.replace(", ", "-").replace(" ", "-").replace("/", "-")
    if not folder.exists():
        cutlayer.simulate(job, out=folder, progress=Silent())
    elif load_job(folder / "job.yaml") != job:
        raise SystemExit(f"--runs: {folder} holds a run of another job: give a new folder")
    elif len(read_rows(folder)) < options.visits:
        cutlayer.resume(folder, progress=Silent())
    scores: Line = {}
    if options.texts:
        answers = folder / "texts.json"
        if not answers.exists():
            cutlayer.evaluate(folder, texts=options.texts, out=answers)
        scores = json.loads(answers.read_text())["texts"]
    return {"name": name, **what_came_out(job, folder), "bleu": scores.get("bleu")}


def what_came_out(job: Job, folder: Path) -> Line:
    """The figures of a run; bytes are those of all devices.

    up, down, features, answers: of a visit, each sample once, as codecs are once they are fitted.
    whole: of all visits. bases: of a device. text: of the pairs themselves, compressed.
    """
    rows, spec = read_rows(folder), describe_model(job.model)
    sums = [_sum(row) for row in rows]
    first, last = sums[0], sums[-1]
    named = last.activations < first.activations / 10
    crossing = [_crossing(one) for one in sums]
    return {
        "perplexity": rows[-1].perplexity,
        "served": rows[-1].perplexity_through_cut,
        "through": rows[-1].accuracy_through_cut,
        "accuracy": rows[-1].accuracy,
        "up": first.activations if named else last.activations,
        "down": last.gradients or None,
        "features": last.features or None,
        "answers": last.feature_gradients or None,
        "visit": _crossing(last) + (first.activations - last.activations if named else 0),
        "all": sum(crossing),
        "text": own_bytes_of(folder)["zstd"],
        "bases": sum(one.coding_down for one in sums) / job.devices.count,
        "seconds": sum(row.cpu_seconds for row in rows),
        "memory": device_memory_bytes(job, spec, job.cut),
        "rank": job.model.lora.rank,
        "blocks": spec.depth,
        "width": spec.width,
    }


def _sum(row: Row) -> Traffic:
    """The bytes of all devices of a round."""
    return Traffic(*(sum(numbers) for numbers in zip(*row.traffic.values(), strict=True)))


def _crossing(one: Traffic) -> int:
    return one.activations + one.gradients + one.features + one.feature_gradients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(METHODS))
    for name, size in {
        "pairs": 4416, "own": 256, "visits": 5, "tests": 4693, "batch": 8, "cut": 10, "texts": 0,
        "references": 1000, "seed": 0,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--schedule", default="constant", help="of the learning rate")
    parser.add_argument("--report", default="language", help="name of the report")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only-report", action="store_true")
    options = parser.parse_args()
    scale = {name: getattr(options, name) for name in SCALE}
    lines = RunLines(scale, REPORTS / "language.jsonl")
    if not options.only_report:
        if None in (options.runs, options.model, options.data):
            parser.error("--runs, --model and --data are needed, save with --only-report")
        run_all(options, lines)
    if options.write:
        write(lines, options.seed, list(METHODS), REPORTS / f"{options.report}.md")


if __name__ == "__main__":
    main()
