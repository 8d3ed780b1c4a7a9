"""Bytes and perplexity of a language model that is fine-tuned through the cut: SmolLM2-135M on E2E.

    python benchmarks/language.py --model DIR --data DIR --runs DIR [--only NAME ...] [--texts 8]
    python benchmarks/language.py --runs DIR [--others DIR ...] --write

--model: the folder that docs/language.md unpacks. --data: E2E's train.jsonl and test.jsonl
(prompts with completions). --pairs, --visits, --tests, --batch, --cut, --tail: the size; 4672, 5,
4693, 8, 10 and 2 are the whole of it. Finished runs are kept in --runs, unfinished ones go on
there, and those that have not begun are left out of the report. --texts: prompts that each trained
model answers. --write: make benchmarks/reports/language.md of what there is, and what
docs/language.md shows of it, and run nothing; --report gives the report another name, as
language-cut-15.md has. --others: folders with some of the runs at the same size and another --seed.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

import cutlayer
from cutlayer.allocate.round_shape import Traffic
from cutlayer.drawing import tables
from cutlayer.drawing.tables import Column
from cutlayer.job import Job, load_job, make_job
from cutlayer.model.families import describe as describe_model
from cutlayer.planning.known.method_costs import device_memory_bytes
from cutlayer.record.data_file import own_bytes_of
from cutlayer.record.row_lines import read_rows
from cutlayer.record.rows import Row
from cutlayer.reports.views.statistics import half_width
from cutlayer.rounds.progress import Silent
from cutlayer.train.evaluate import evaluate, unsplit
from cutlayer.train.parts import first_adapter, load_parts
from cutlayer.train.task import task_of
from environment import describe
from shared_blocks import DOCS, copy_block, marked

REPORTS = Path(__file__).parent / "reports"
SHOWN, PAGE = "language", DOCS / "language.md"
"""The report whose findings a page of the docs shows."""
KNOWN, LEARNT = ", known tokens", ", learnt tokens"
FROZEN, TAIL = "frozen, float32", "u-shape, float32"
NEAR = 0.01
"""How much more perplexity still counts as none."""
GOALS = (
    (FROZEN, "frozen, klt", 140, 700),
    (TAIL, "u-shape, klt", 60, None),
    (TAIL + LEARNT, "u-shape, klt", 60, None),
)
"""What a line's perplexity is compared with, how the line begins, and how many times fewer bytes a
visit, and over all, it is to take than float32 both ways."""

Line = dict[str, Any]


def klt(rate: float, **more: Any) -> Line:
    return {"codec": "klt", "rate_bits": rate, **more}


def sent_once(rate: float, **more: Any) -> Line:
    """A basis fitted to texts of the server's own; activations are named at later visits."""
    return {"name": "lean", "uplink": klt(rate, reuse=True, fit="calibration", **more)}


FLOAT = {"codec": "quantize", "bits": 32, "entropy": "none"}
SENT = {"name": "lean", "uplink": FLOAT | {"reuse": False}}
FLOATS = {"tail_downlink": FLOAT, "tail_uplink": FLOAT}
METHODS: dict[str, Line] = {
    FROZEN: SENT,
    "frozen, klt 0.42": sent_once(0.42),
    "frozen, klt 0.43": sent_once(0.43),
    TAIL: SENT | FLOATS,
    "u-shape, klt": sent_once(0.5) | {"tail_downlink": klt(1), "tail_uplink": klt(0.5)},
    f"{TAIL}{LEARNT}": SENT | FLOATS | {"tail_tokens": "learnt"},
    f"u-shape, klt{LEARNT}": sent_once(0.75)
    | {"tail_downlink": klt(1.75), "tail_uplink": klt(0.9), "tail_tokens": "learnt"},
    "frozen, klt 1": sent_once(1),
    "frozen, klt 2": sent_once(2),
    "frozen, klt 0.35": sent_once(0.35),
    "frozen, klt 0.7": sent_once(0.7),
    f"frozen, klt 0.42{KNOWN}": sent_once(0.42, known_tokens=True),
    f"frozen, klt 0.21{KNOWN}": sent_once(0.21, known_tokens=True),
    "sflora, float32": {"name": "sflora"},
    "fedlora": {"name": "fedlora"},
    "centralized": {"name": "centralized"},
    "sflora, klt": {"name": "sflora", "uplink": klt(0.5), "downlink": klt(0.25)},
}


def write_data(options: argparse.Namespace) -> None:
    """Tables of the pairs to train on, 64 others for the server, and those to test on."""
    rng = np.random.default_rng(options.seed)
    lines = (options.data / "train.jsonl").read_text().splitlines()
    order = rng.permutation(len(lines))
    own = min(64, len(lines) // 10)  # of the server
    tests = (options.data / "test.jsonl").read_text().splitlines()
    references: dict[str, list[str]] = {}
    for line in tests:
        references.setdefault(json.loads(line)["prompt"], []).append(line)
    prompts = list(references)
    asked: list[str] = []
    for number in rng.permutation(len(prompts)):
        asked += references[prompts[number]][: options.references]
    parts = {
        "calibration": [lines[i] for i in order[:own]],
        "train": [lines[i] for i in order[own:][: options.pairs]],
        "test": asked[: options.tests],
    }
    options.runs.mkdir(parents=True, exist_ok=True)
    for name, chosen in parts.items():
        path = options.runs / f"{name}.jsonl"
        text = "".join(line + "\n" for line in chosen)
        if path.exists() and path.read_text() != text:
            raise SystemExit(f"--runs: {options.runs} holds runs of another size: give a new one")
        path.write_text(text)


def job_of(name: str, options: argparse.Namespace) -> Job:
    tail = {"tail": options.tail} if name.startswith("u-shape") else {}
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
            "devices": {"count": 4},
            "training": {
                "rounds": options.visits, "batch_size": options.batch, "lr": options.lr,
                "evaluate_every": options.visits, "precision": options.precision,
                "schedule": options.schedule,
            },
            "method": METHODS[name],
            "seed": options.seed,
        }
    )  # fmt: skip


def run_all(options: argparse.Namespace) -> None:
    """All runs that are not there yet, one after another."""
    torch.set_num_threads(1)
    write_data(options)
    before = options.runs / "before.json"
    if not before.exists():
        job = job_of("frozen, float32", options)
        parts = load_parts(job)
        whole = unsplit(parts.model, parts.preprocess, first_adapter(job, parts.model))
        tested = evaluate(task_of(job, parts.model.spec), whole, parts.test)
        print("before", tested.perplexity, flush=True)
        before.write_text(json.dumps({"perplexity": tested.perplexity}))
    for name in options.only or METHODS:
        folder = options.runs / folder_of(name)
        if not folder.exists():
            cutlayer.simulate(job_of(name, options), out=folder, progress=Silent())
        elif len(read_rows(folder)) < options.visits:
            cutlayer.resume(folder, progress=Silent())
        print(name, read_rows(folder)[-1].perplexity, flush=True)
    if options.texts:
        for name in METHODS:
            folder = options.runs / folder_of(name)
            if folder.exists() and not (folder / "texts.json").exists():
                cutlayer.evaluate(folder, texts=options.texts, out=folder / "texts.json")


def folder_of(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def line_of(name: str, folder: Path) -> Line:
    """What a run came to. A visit: each sample once, as codecs are once they are fitted."""
    rows, job = read_rows(folder), load_job(folder / "job.yaml")
    sums = [_sum(row) for row in rows]
    first, last = sums[0], sums[-1]
    named = last.activations < first.activations / 10
    texts = folder / "texts.json"
    scores = json.loads(texts.read_text())["texts"] if texts.exists() else {}
    crossing = [_crossing(one) for one in sums]
    return {
        "name": name,
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
        "memory": device_memory_bytes(job, describe_model(job.model), job.cut),
        "visits": len(rows),
        "bleu": scores.get("bleu"),
        "prompts": scores.get("prompts", 0),
    }


def _sum(row: Row) -> Traffic:
    """The bytes of all devices of a round."""
    return Traffic(*(sum(numbers) for numbers in zip(*row.traffic.values(), strict=True)))


def _crossing(one: Traffic) -> int:
    return one.activations + one.gradients + one.features + one.feature_gradients


def report(runs: Path, others: list[Path], title: str) -> str:
    """The page of all runs. others: folders of those with other seeds. title: its file's name."""
    there = {name: runs / folder_of(name) for name in METHODS}
    there = {
        name: folder for name, folder in there.items()
        if folder.exists() and read_rows(folder) and read_rows(folder)[-1].perplexity
    }  # fmt: skip
    lines = [line_of(name, folder) for name, folder in there.items()]
    frozen = next((one for one in lines if one["name"] == FROZEN), None)
    job = load_job(next(iter(there.values())) / "job.yaml")
    spec = describe_model(job.model)
    tokens = frozen and frozen["up"] / (4 * spec.width)
    for one in lines:
        messages = 4 if one["name"].startswith("u-shape") else 2
        both = messages * frozen["up"] if frozen and one["visit"] else None
        one["ratio"] = both and both / one["visit"]
        one["over_text"] = one["all"] / one["text"] if one["all"] else None
        one["whole_ratio"] = both and both * one["visits"] / one["all"]
        one["shown"] = f"{one['perplexity']:.2f}"
        one["shown_served"] = f"{one['served']:.2f}" if one["served"] else None
        one["rate"] = tokens and tokens * one["visits"] / one["seconds"]
    missing = [name for name in METHODS if name not in there]
    pairs = len((runs / "train.jsonl").read_text().splitlines())
    tests = len((runs / "test.jsonl").read_text().splitlines())
    asked = max(one["prompts"] for one in lines)
    of_bleu = f"BLEU is that of the answers to {asked} prompts. " if asked else ""
    before = json.loads((runs / "before.json").read_text())["perplexity"]
    columns = [
        Column("name", "run", "text"), Column("shown", "perplexity", "text"),
        Column("shown_served", "perplexity through the cut", "text"),
        Column("accuracy", "tokens right", "percent"),
        Column("through", "through the cut", "percent"), Column("bleu", "BLEU"),
        Column("up", "activations up", "bytes"), Column("down", "gradients down", "bytes"),
        Column("features", "features down", "bytes"),
        Column("answers", "their gradients up", "bytes"), Column("ratio", "a visit", "ratio"),
        Column("whole_ratio", "all visits", "ratio"), Column("over_text", "over text", "ratio"),
        Column("bases", "bases, a device", "bytes"), Column("memory", "device memory", "bytes"),
        Column("rate", "tokens a second", "count"),
    ]  # fmt: skip
    return "\n".join(
        [
            "# A language model through the cut",
            "",
            describe(),
            "",
            f"SmolLM2-135M-Instruct ({spec.depth} blocks of width {spec.width}; from a GGUF "
            f"file of 4 bits, see docs/language.md) on {pairs:,} pairs of E2E, 4 devices, "
            f"{lines[0]['visits']} visits of each pair, batches of {job.training.batch_size}, "
            f"rank {job.model.lora.rank}, learning rate {job.training.lr:g} "
            f"({job.training.schedule}), seed {job.seed}, "
            f"cut after {job.cut} blocks, tested on {tests:,} sentences. Perplexity before "
            f"training {before:.2f}. *frozen* and *u-shape*: `lean`, whose devices train "
            "nothing before the cut; klt with its rate in bits a value (of *u-shape* 0.5 up "
            "at the cut, 1 down and 0.5 up at the tail, with *learnt tokens* 0.75, 1.75 and 0.9; "
            "of *sflora* 0.5 up and 0.25 down), "
            "fitted to 64 pairs of the server's own, activations sent once; *known tokens*: tokens "
            "of answers, which the server has as labels, are told by how they differ from the mean "
            "of their like; *learnt tokens*: only of tokens of answers do features and gradients "
            "cross to the norm and head on the device. "
            "Bytes are those of all devices in one visit, once codecs "
            "are fitted; *x*: times fewer than float32 both ways (twice what goes up in "
            f"*{FROZEN}*, and four times where a u-shape has four messages), without bases "
            "and adapters. *Over text*: all visits against the pairs as UTF-8 under "
            f"zstandard. {of_bleu}Device memory is "
            "computed; tokens a second are those of a visit over "
            "the processor's time of training, one thread. "
            f"Lines that were not run are left out ({', '.join(missing) or 'none'}).",
            "",
            "    python benchmarks/language.py --model smollm2 --data E2E --runs DIR "
            f"--pairs {pairs} --visits {lines[0]['visits']} --tests {tests} "
            f"--batch {job.training.batch_size} --cut {job.cut} --lr {job.training.lr:g} "
            f"--schedule {job.training.schedule} --seed {job.seed} "
            f"--precision {job.training.precision} --texts {asked} --report {title}",
            "",
            "measured this; the whole of E2E is `--pairs 4672 --tests 4693 --batch 8 --cut 10 "
            "--texts 200`.",
            "",
            tables.markdown(lines, columns),
            marked(
                f"{title}.md",
                "\n".join([*findings(lines, before, pairs), *over_seeds([runs, *others])]),
            ),
        ]
    )


def findings(lines: list[Line], before: float, pairs: int) -> list[str]:
    """What the figures say, computed from them."""
    by_name = {one["name"]: one for one in lines}
    said = []
    for reference, start, visit, whole in GOALS:
        for one in lines:
            if not has_goal(one["name"], reference, start) or one["ratio"] is None:
                continue
            goals = f"{one['ratio']:.0f} times fewer bytes a visit (the goal is {visit})"
            if whole is not None:
                goals += f" and {one['whole_ratio']:.0f} over all visits (the goal is {whole})"
            near = f"perplexity {one['perplexity']:.2f}, and *{reference}* was not run"
            if reference in by_name:
                near = compared(one, by_name[reference])
            worth = one["bases"] / (one["visit"] / pairs)
            said.append(
                f"- *{one['name']}*: {goals}; {near}. The bases of a device take as many bytes as "
                f"{worth:,.0f} pairs in a visit."
            )
    for one in lines:
        plain = by_name.get(one["name"].removesuffix(KNOWN))
        if plain is not None and one is not plain:
            shares = [one[key] / plain[key] - 1 for key in ("perplexity", "served", "bases")]
            exported, served, bases = (f"{100 * share:+.1f} %" for share in shares)
            said.append(
                f"- *{one['name']}* against *{plain['name']}*, of which it differs in known tokens "
                f"alone: perplexity {exported} as exported, {served} through the cut; bytes of "
                f"bases {bases}."
            )
    sending = [one for one in lines if one["over_text"]]
    if sending:
        least = min(sending, key=lambda one: one["all"])
        said.append(
            f"- The pairs themselves are {least['text'] / 1e3:.1f} kB as text under zstandard: the "
            f"line that sends least, *{least['name']}*, takes {least['over_text']:,.0f} times that."
        )
    best = min(lines, key=lambda one: one["perplexity"])
    said.append(
        f"- The least perplexity has *{best['name']}*, {best['perplexity']:.2f}, from "
        f"{before:.2f} before training."
    )
    return said


def has_goal(name: str, reference: str, start: str) -> bool:
    """Whether a line that begins so is compared with this reference."""
    return name.startswith(start) and name.endswith(LEARNT) == reference.endswith(LEARNT)


def compared(one: Line, reference: Line) -> str:
    """How a line's perplexity, as exported and through the cut, differs from the reference's."""

    def part(perplexity: float, how: str) -> str:
        more = perplexity / reference["perplexity"] - 1
        is_near = "within" if more <= NEAR else "not within"
        return f"{100 * more:+.2f} % {how}, {is_near} {100 * NEAR:g} %"

    parts = [part(one["perplexity"], "as exported")]
    if one["served"]:
        parts.append(part(one["served"], "through the cut"))
    return f"perplexity against *{reference['name']}* {'; '.join(parts)}"


def over_seeds(folders: list[Path]) -> list[str]:
    """How the lines with goals differ from their references, seed by seed and on the whole.

    folders: one of each seed, whose runs have pairs, tests and first adapters of their own.
    """
    said = []
    for reference, start, *_ in GOALS:
        for name in METHODS:
            if not has_goal(name, reference, start):
                continue
            exported, served = {}, {}
            for runs in folders:
                one, other = last_row(runs, name), last_row(runs, reference)
                if one is None or other is None:
                    continue
                seed = load_job(runs / folder_of(name) / "job.yaml").seed
                exported[seed] = one.perplexity / other.perplexity - 1
                if one.perplexity_through_cut:
                    served[seed] = one.perplexity_through_cut / other.perplexity - 1
            for how, more in (("as exported", exported), ("through the cut", served)):
                if len(more) > 1:
                    said.append(f"- *{name}* against *{reference}*, {how}: {spread(more)}.")
    return said


def last_row(runs: Path, name: str) -> Row | None:
    """The last row of a run, where it is there and finished."""
    folder = runs / folder_of(name)
    rows = read_rows(folder) if folder.exists() else []
    return rows[-1] if rows and rows[-1].perplexity else None


def spread(more: dict[int, float]) -> str:
    """What perplexities differ by, as a share, by seed; their mean, and whether it is near 0."""
    by_seed = ", ".join(f"{100 * more[seed]:+.2f} %" for seed in sorted(more))
    middle, half = mean(more.values()), half_width(list(more.values()))
    assert half is not None  # there are two seeds or more
    low, high = middle - half, middle + half
    shown = "is shown" if high <= NEAR else "is ruled out" if low > NEAR else "is not shown"
    return (
        f"{by_seed} with seeds {', '.join(map(str, sorted(more)))}; in the mean "
        f"{100 * middle:+.2f} % (95 % interval {100 * low:+.2f} to {100 * high:+.2f}): "
        f"at most {100 * NEAR:g} % more perplexity {shown}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--others", type=Path, nargs="+", default=[])
    parser.add_argument("--only", nargs="+", choices=list(METHODS))
    for name, size in {
        "pairs": 4672, "visits": 5, "tests": 4693, "batch": 8, "cut": 10, "tail": 2, "texts": 0,
        "references": 1000, "seed": 0,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--schedule", default="constant", help="of the learning rate")
    parser.add_argument("--report", default="language", help="name of the report")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if not options.write:
        run_all(options)
    path = REPORTS / f"{options.report}.md"
    path.write_text(report(options.runs, options.others, options.report))
    if options.report == SHOWN:
        copy_block(path, PAGE)


if __name__ == "__main__":
    main()
