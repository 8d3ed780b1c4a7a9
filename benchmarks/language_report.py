"""The report of benchmarks/language.py, and what docs/language.md shows of it."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from cutlayer.drawing import tables
from cutlayer.drawing.tables import Column
from cutlayer.reports.views.statistics import half_width
from run_lines import Line, RunLines
from shared_blocks import DOCS, copy_block, marked

SHOWN, PAGE = ("language", "language-u-shape"), DOCS / "language.md"
"""The reports whose findings a page of the docs shows."""
BEFORE = "before training"
KNOWN, LEARNT, WEIGHTED, AT_RANDOM = (
    ", known tokens", ", learnt tokens", ", weighted", ", at random",
)  # fmt: skip
ALONE = {KNOWN: "known tokens", WEIGHTED: "weighted errors", AT_RANDOM: "rounding at random"}
"""What a line may have that an equal one without it isolates, by what its name has then."""
FROZEN, TAIL = "frozen, float32", "u-shape, float32"
RATIOS = ("ratio", "whole_ratio", "with_bases")
"""How many times fewer bytes: a visit, over all visits, and over these with bases."""
DEVICES = 4
NEAR = 0.01
"""How much more perplexity still counts as none."""


class Goal(NamedTuple):
    """How many times fewer bytes than float32 both ways lines are to take, a visit and over all.

    reference: the line with which perplexities are compared. start: how a line's name begins that
    has the goal; learnt: whether it sends tokens that are learnt alone.
    """

    reference: str
    start: str
    learnt: bool
    visit: int
    whole: int | None = None

    def of(self, name: str) -> bool:
        """Whether a line has it."""
        return name.startswith(self.start) and (LEARNT in name) == self.learnt


GOALS = (
    Goal(FROZEN, "frozen, klt", False, 140, 700),
    Goal(TAIL, "u-shape, klt", False, 60),
    # Nothing trains in a norm and a head: without rounding this trains what FROZEN does.
    Goal(FROZEN, "u-shape, klt", True, 60, 60),
)
COLUMNS = (
    Column("name", "run", "text"), Column("shown", "perplexity", "text"),
    Column("shown_served", "perplexity through the cut", "text"),
    Column("accuracy", "tokens right", "percent"),
    Column("through", "through the cut", "percent"), Column("bleu", "BLEU"),
    Column("up", "activations up", "bytes"), Column("down", "gradients down", "bytes"),
    Column("features", "features down", "bytes"),
    Column("answers", "their gradients up", "bytes"), Column("ratio", "a visit", "ratio"),
    Column("whole_ratio", "all visits", "ratio"), Column("with_bases", "with bases", "ratio"),
    Column("over_text", "over text", "ratio"),
    Column("bases", "bases, a device", "bytes"), Column("memory", "device memory", "bytes"),
    Column("rate", "tokens a second", "count"),
)  # fmt: skip
TEXT = """# A language model through the cut

{where}

SmolLM2-135M-Instruct ({blocks} blocks of width {width}; from a GGUF file of 4 bits, see
docs/language.md) on {pairs:,} pairs of E2E, 4 devices, {visits} visits of each pair, batches of
{batch}, rank {rank}, learning rate {lr:g} ({schedule}), {precision}, seed {seed}, cut after {cut}
blocks, tested on {tests:,} sentences. Perplexity before training {before:.2f}{answers}.

- *frozen* and *u-shape*: `lean`, whose devices train nothing before the cut; klt with its rate in
  bits a value (of *u-shape* up at the cut, down and up at the tail, which has two blocks, norm and
  head, with *learnt tokens* norm and head alone; of *sflora* 0.5 up and 0.25 down), up at the
  cut fitted to {own} pairs of the server's own, activations sent once.
- *known tokens*: tokens of answers, which the server has as labels, are told by how they differ
  from the mean of their like. *learnt tokens*: labels stay at home, and only of tokens of answers
  do features and gradients cross (`method.tail_tokens`). *weighted*: what passes the tail is coded
  finer where errors would change the loss, or the server's gradients, more (`weighting`). *at
  random*: gradients from the tail are rounded at random, with the right mean (`rounding`).
- Bytes are those of all devices in one visit, once codecs are fitted; *x*: times fewer than float32
  both ways (twice what goes up in *{frozen}*, and four times where a u-shape has four messages),
  without bases and adapters; *with bases*: all visits and what bases took on their way to the four
  devices, each of which gets them once, whatever the number of its pairs. *Over text*: all visits
  against the pairs as UTF-8 under zstandard.
- {of_bleu}Device memory is computed; tokens a second are those of a visit over the processor's time
  of training, one thread. Memory is that where all tokens are learnt.

Lines that were not run with this seed are left out: {missing}.{bare}

    python benchmarks/language.py --model smollm2 --data E2E --runs DIR --pairs {pairs} \\
        --own {own} --visits {visits} --tests {tests} --batch {batch} --cut {cut} --lr {lr:g} \\
        --schedule {schedule} --seed {seed} --precision {precision} --texts {texts} \\
        --report {report} --write

measured this, and with other seeds adds to it; the whole of E2E is `--pairs 4416 --tests 4693
--batch 8 --cut 10 --texts 200`.

{table}
{block}"""

BARE = (
    " Runs with these seeds were made before this report kept lines, and of them there are the "
    "perplexities, to four decimals, and no bytes: {}."
)


def is_whole(line: Line) -> bool:
    """Whether a run's line has its bytes."""
    return "up" in line


def write(lines: RunLines, seed: int, every: Sequence[str], path: Path) -> None:
    """Write the report of the runs of one size, and what a page shows of it. every: all names."""
    path.write_text(page(lines, seed, every, path.name))
    if path.stem in SHOWN:
        copy_block(path, PAGE)


def page(lines: RunLines, seed: int, every: Sequence[str], title: str) -> str:
    """The report. Raises SystemExit where there is no run with this seed."""
    found = {
        name: line
        for name in every
        if (line := lines.latest(name=name, seed=seed)) and is_whole(line)
    }
    there = [dict(line) for line in found.values()]
    before = lines.latest(name=BEFORE, seed=seed)
    if not there or before is None:
        raise SystemExit(f"--seed: {seed} has no finished run of this size: take another")
    frozen = found.get(FROZEN)
    scale = lines.scale
    for one in there:
        one |= ratios(lines, one)
        one["over_text"] = one["all"] / one["text"] if one["all"] else None
        one["shown"] = f"{one['perplexity']:.2f}"
        one["shown_served"] = f"{one['served']:.2f}" if one["served"] else None
        tokens = frozen and frozen["up"] / (4 * one["width"])
        one["rate"] = tokens and tokens * scale["visits"] / one["seconds"]
    asked = scale["texts"]
    missing = [f"*{name}*" for name in every if name not in found]
    seeds = sorted({line["seed"] for line in lines.all})
    bare = [
        other
        for other in seeds
        if any(
            (line := lines.latest(name=name, seed=other)) and not is_whole(line) for name in every
        )
    ]
    said = [
        *findings(there, before["perplexity"], scale["pairs"]),
        *over_seeds(lines, every),
        *alone(lines, every),
    ]
    return TEXT.format(
        **scale,
        **{name: there[0][name] for name in ("blocks", "width", "rank")},
        where="\n\n".join(sorted({line["where"] for line in lines.all})),
        seed=seed,
        report=title.removesuffix(".md"),
        before=before["perplexity"],
        answers=f", BLEU {before['bleu']:.0f}" if before.get("bleu") is not None else "",
        frozen=FROZEN,
        of_bleu=f"BLEU is that of the answers to {asked} prompts. " if asked else "",
        missing="; ".join(missing) or "none",
        bare=BARE.format(", ".join(map(str, bare))) if bare else "",
        table=tables.markdown(there, COLUMNS),
        block=marked(title, "\n".join(said)),
    )


def ratios(lines: RunLines, one: Line) -> Line:
    """How many times fewer bytes than float32 both ways a run takes: see RATIOS."""
    if not is_whole(one):
        return {key: one.get(key) for key in RATIOS}
    frozen = lines.latest(name=FROZEN, seed=one["seed"])
    if frozen is None or not is_whole(frozen) or not one["visit"]:
        return dict.fromkeys(RATIOS)
    both = (4 if one["name"].startswith("u-shape") else 2) * frozen["up"]
    whole = both * lines.scale["visits"]
    ways = (both / one["visit"], whole / one["all"], whole / (one["all"] + DEVICES * one["bases"]))
    return dict(zip(RATIOS, ways, strict=True))


def findings(lines: list[Line], before: float, pairs: int) -> list[str]:
    """What the figures say, computed from them."""
    by_name = {one["name"]: one for one in lines}
    said = []
    for goal in GOALS:
        for one in lines:
            if not goal.of(one["name"]) or one["ratio"] is None:
                continue
            goals = f"{one['ratio']:.0f} times fewer bytes a visit (the goal is {goal.visit})"
            if goal.whole is not None:
                goals += (
                    f" and {one['whole_ratio']:.0f} over all visits (the goal is {goal.whole}), "
                    f"without bases; {one['with_bases']:.0f} with them"
                )
            near = f"perplexity {one['perplexity']:.2f}, and *{goal.reference}* was not run"
            if goal.reference in by_name:
                near = compared(one, by_name[goal.reference])
            worth = one["bases"] / (one["visit"] / pairs)
            said.append(
                f"- *{one['name']}*: {goals}; {near}. The bases of a device take as many bytes as "
                f"{worth:,.0f} pairs in a visit."
            )
    for one in lines:
        for part, what in ALONE.items():
            plain = by_name.get(one["name"].replace(part, ""))
            if plain is None or one is plain:
                continue
            keys = ("perplexity", "served", "visit", "bases")
            shares = [one[key] / plain[key] - 1 for key in keys]
            exported, served, visit, bases = (f"{100 * share:+.1f} %" for share in shares)
            said.append(
                f"- *{one['name']}* against *{plain['name']}*, of which it differs in {what} "
                f"alone: perplexity {exported} as exported, {served} through the cut; bytes of a "
                f"visit {visit}, of bases {bases}."
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


def over_seeds(lines: RunLines, every: Sequence[str]) -> list[str]:
    """How the lines with goals differ from their references, seed by seed and on the whole.

    Each seed has pairs, tests and first adapters of its own.
    """
    said = []
    for goal in GOALS:
        for name in filter(goal.of, every):
            exported, served, a_visit, whole = {}, {}, {}, {}
            for seed in {line["seed"] for line in lines.all}:
                one = lines.latest(name=name, seed=seed)
                other = lines.latest(name=goal.reference, seed=seed)
                if one is None or other is None:
                    continue
                exported[seed] = one["perplexity"] / other["perplexity"] - 1
                if one["served"]:
                    served[seed] = one["served"] / other["perplexity"] - 1
                fewer = ratios(lines, one)
                if fewer["ratio"]:
                    a_visit[seed], whole[seed] = fewer["ratio"], fewer["whole_ratio"]
            for how, more in (("as exported", exported), ("through the cut", served)):
                if more:
                    said.append(f"- *{name}* against *{goal.reference}*, {how}: {spread(more)}.")
            for how, times, wanted in (
                ("a visit", a_visit, goal.visit), ("over all visits", whole, goal.whole),
            ):  # fmt: skip
                if len(times) > 1 and wanted is not None:
                    by_seed = ", ".join(f"{times[seed]:.0f}" for seed in sorted(times))
                    said.append(
                        f"- *{name}*, bytes {how}: {by_seed} times fewer with seeds "
                        f"{', '.join(map(str, sorted(times)))}; in the mean "
                        f"{mean(times.values()):.0f} (the goal is {wanted})."
                    )
    return said


def alone(lines: RunLines, every: Sequence[str]) -> list[str]:
    """What each of ALONE changes of perplexity, over the seeds that have an equal line without."""
    said = []
    for name, (part, what) in product(every, ALONE.items()):
        if part not in name:
            continue
        without = name.replace(part, "")
        pairs = [
            (one, plain)
            for seed in sorted({line["seed"] for line in lines.all})
            if (one := lines.latest(name=name, seed=seed))
            and (plain := lines.latest(name=without, seed=seed))
        ]
        for how, key in (("as exported", "perplexity"), ("through the cut", "served")):
            more = {one["seed"]: one[key] / plain[key] - 1 for one, plain in pairs}
            if len(more) > 1:
                low, high = interval(more)
                told = "is" if low > 0 or high < 0 else "is not"
                said.append(
                    f"- {what.capitalize()} alone, {without}, {how}: "
                    f"{listed(more)}: a difference {told} told from 0."
                )
    return said


def spread(more: dict[int, float]) -> str:
    """What perplexities differ by, as a share, by seed; their mean, and whether it is near 0."""
    if len(more) == 1:
        (seed,) = more
        return f"{100 * more[seed]:+.2f} % with seed {seed} alone, which has no interval"
    low, high = interval(more)
    shown = "is shown" if high <= NEAR else "is ruled out" if low > NEAR else "is not shown"
    return f"{listed(more)}: at most {100 * NEAR:g} % more perplexity {shown}"


def listed(more: dict[int, float]) -> str:
    """Shares by seed, their mean and its interval; of two seeds or more."""
    by_seed = ", ".join(f"{100 * more[seed]:+.2f} %" for seed in sorted(more))
    low, high = interval(more)
    return (
        f"{by_seed} with seeds {', '.join(map(str, sorted(more)))}; in the mean "
        f"{100 * mean(more.values()):+.2f} % (95 % interval {100 * low:+.2f} to {100 * high:+.2f})"
    )


def interval(more: dict[int, float]) -> tuple[float, float]:
    """The interval of their mean; of two seeds or more."""
    middle, half = mean(more.values()), half_width(list(more.values()))
    assert half is not None
    return middle - half, middle + half
