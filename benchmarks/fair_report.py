"""The report of the fair table and what README.md shows of it, all findings computed."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from cutlayer.drawing import tables
from fair_findings import RULES, Runs, Tried, differences, findings, in_short, middle_of, ratios
from fair_lines import PROBE, TUNING_SEED, Line, Lines
from shared_blocks import copy_block, marked

REPORTS = Path(__file__).parent / "reports"
HEADLINE = "fair"
"""The report whose table README.md shows."""
BESIDE = "fair-few-images"
"""The report of which README.md shows some sentences."""
README = Path(__file__).parent.parent / "README.md"
COLUMNS = (
    tables.Column("allocation", "allocation", "text"),
    tables.Column("rule", "server adapter", "text"),
    tables.Column("lr", "learning rate", "text"),
    tables.Column("accuracy", "exported", "percent"),
    tables.Column("served", "served", "percent"),
    tables.Column("visits", "samples", "count"),
    tables.Column("steps", "steps", "count"),
    tables.Column("in_row", "in a row", "count"),
    tables.Column("bytes", "sent", "bytes"),
    tables.Column("seconds", "virtual, median", "seconds"),
    tables.Column("ratio", "of equal, median (x)", "text"),
    tables.Column("joules", "joules of equal, median (x)", "text"),
    tables.Column("left_out", "left out", "count"),
)
DIFFERENCES = (
    tables.Column("what", "what changes", "text"),
    tables.Column("where", "where", "text"),
    tables.Column("points", "points of accuracy", "text"),
    tables.Column("interval", "95 % interval", "text"),
)


def write(
    lines: Lines,
    options: argparse.Namespace,
    cells: Sequence[tuple[str, str]],
    every: Sequence[str],
    command: str,
) -> None:
    """Write the report, and what README.md shows of it, if anything. every: all
    allocations that there are.
    """
    found: Runs = {}
    for cell in cells:
        rate = lines.tuned(*cell, options.rates)
        runs = {s: lines.find(*cell, s, rate) for s in options.seeds if rate is not None}
        if there := {seed: line for seed, line in runs.items() if line}:
            found[cell] = there
    probes = {s: line for s in options.seeds if (line := lines.find(PROBE, "", s))}
    tried = tried_beyond(lines, cells, options.rates)
    text = page(found, probes, tried, options, missing(found, every), command)
    report = REPORTS / f"{options.report}.md"
    report.write_text(text)
    if options.report in (HEADLINE, BESIDE):
        copy_block(report, README)


def tried_beyond(lines: Lines, cells: Sequence[tuple[str, str]], rates: Sequence[float]) -> Tried:
    """Lines of the table whose learning rate was tried beyond `rates` too."""
    found: dict[tuple[tuple[str, str], float], tuple[float, float]] = {}
    for other in lines.beyond(rates):
        cell = (other["allocation"], other["rule"])
        rate = lines.tuned(*cell, rates)
        own = None if rate is None else lines.find(*cell, TUNING_SEED, rate)
        if own and cell in cells:
            found[cell, other["lr"]] = other["held_out_accuracy"], own["held_out_accuracy"]
    return [(cell, rate, *accuracies) for (cell, rate), accuracies in found.items()]


def page(
    found: Runs,
    probes: Mapping[int, Line],
    tried: Tried,
    options: argparse.Namespace,
    missing: str,
    command: str,
) -> str:
    """The report."""
    rows = [line_of(cell, found) for cell in found]
    samples = {line["samples"] for line in probes.values()}
    every = [*probes.values(), *(line for runs in found.values() for line in runs.values())]
    places = {line["where"] for line in every}
    if probes:
        accuracy = [line["accuracy"] for line in probes.values()]
        rows.append({"allocation": PROBE, "rule": "-", "lr": "-", "accuracy": accuracy})
    said = listed(findings(found, probes, options.rates, tried))
    block = f"{setting(options, found)}\n\n{short(found)}\n{said}"
    if options.report == HEADLINE:
        block = marked(f"{options.report}.md", block)
    elif options.report == BESIDE:
        shown = marked(
            f"{options.report}.md", f"{size(options)}\n\n{listed(in_short(found, probes))}"
        )
        block = f"What README.md shows of it:\n\n{shown}\n## In all\n\n{block}"
    return TEXT.format(
        environment="\n".join(f"- Trained: {place}" for place in sorted(places)),
        block=block.strip(),
        missing=missing,
        table=tables.markdown(rows, COLUMNS),
        differences=tables.markdown(list(differences(found)), DIFFERENCES),
        probed=", ".join(map(str, sorted(samples))) or "no",
        choice=choice(options),
        cut=options.cut,
        precision=options.precision,
        command=command,
    )


def missing(found: Runs, every: Sequence[str]) -> str:
    """One sentence on what the table has no line of."""
    there = {allocation for allocation, _ in found}
    names = [f"`{name}`" for name in every if name not in there]
    if not names:
        return ""
    return (
        f"Not trained yet: {', '.join(names)}. The command below adds them if `--allocations` and "
        "`--central` are left out.\n\n"
    )


def listed(sentences: Iterable[str]) -> str:
    """A line each."""
    return "\n".join(f"- {one}" for one in sentences)


def setting(options: argparse.Namespace, found: Runs) -> str:
    """What was trained, how and how far, for README and report."""
    seeds = sorted({seed for runs in found.values() for seed in runs})
    inside = {rule: [] for rule in RULES}
    for (_, rule), runs in found.items():
        if rule:
            inside[rule] += runs.values()
    every = [line for lines in inside.values() for line in lines]
    if not every:
        return size(options)
    in_row = ", ".join(
        f"{mean(line['in_row'] for line in lines):,.0f} ({RULES[rule]})"
        for rule, lines in inside.items()
        if lines
    )
    return (
        f"{size(options)}\n\nA run trains on {spanned('visits', every)} samples, repeats included, "
        f"in {spanned('steps', every)} steps of the optimiser. How many of them follow one another "
        f"depends on the server adapter: {in_row}. "
        f"Seeds {', '.join(map(str, seeds))}: mean and range of the exported adapter's accuracy. "
        f"The learning rate of each line is the best of "
        f"{', '.join(f'{rate:g}' for rate in options.rates)} on the {100 * options.held_out:.0f} % "
        f"of their samples that devices hold out, with seed {TUNING_SEED}. `asfv` and `auto` "
        f"{choice(options)}; with an earlier cut the server trains more blocks. Each allocation "
        "brings the coding of its paper: `equal`, `st-sflora`, `exact` and `asfv` send float32, "
        "`sflam` and `auto` the bits that they choose, `lean` half a bit a value, and each sample "
        "once. Bytes (of all devices, up and down, in a run), seconds and joules are of allocation "
        "and coding together."
    )


def size(options: argparse.Namespace) -> str:
    """How large the table is."""
    return (
        f"{options.model_name} ({options.image_size} pixels a side, cut after block "
        f"{options.cut}) on {options.data_name}: {options.train:,} training and "
        f"{options.test:,} test images, "
        f"{options.devices} devices with Dirichlet 0.5, {options.per_round} a round, "
        f"{options.rounds} rounds of one epoch, batches of {options.batch_size}."
    )


def spanned(key: str, lines: Sequence[Line]) -> str:
    """The least and the largest of a figure."""
    low, high = (find(line[key] for line in lines) for find in (min, max))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def choice(options: argparse.Namespace) -> str:
    """What cuts the allocators that choose one may choose."""
    if not options.cuts:
        return "may choose another cut"
    return f"choose from cuts {' and '.join(map(str, options.cuts))}"


def line_of(cell: tuple[str, str], found: Runs) -> dict[str, Any]:
    """A line of the whole table."""
    runs = found[cell]
    values = list(runs.values())
    of_equal = {
        name: middle_of(there) if (there := list(ratios(found, cell, key).values())) else "-"
        for name, key in (("ratio", "seconds"), ("joules", "joules"))
    }
    in_world = values[0]["seconds"] is not None
    return {
        "allocation": cell[0],
        "rule": RULES.get(cell[1], "-"),
        "lr": f"{values[0]['lr']:g}",
        **{name: [line[name] for line in values] for name in ("accuracy", "served")},
        **{name: mean(line[name] for line in values) for name in ("visits", "steps", "in_row")},
        "bytes": mean(line["bytes"] for line in values) if in_world else None,
        "left_out": mean(line["left_out"] for line in values) if in_world else None,
        "seconds": median(line["seconds"] for line in values) if in_world else None,
        **of_equal,
    }


def short(found: Runs) -> str:
    """A line an allocation, a column a rule: exported accuracy, bytes and seconds."""
    rules = [rule for rule in RULES if any(cell[1] == rule for cell in found)]
    rows = []
    for allocation in dict.fromkeys(cell[0] for cell in found if cell[1]):
        own = {rule: found.get((allocation, rule), {}) for rule in rules}
        sent = [line["bytes"] for runs in own.values() for line in runs.values()]
        times = [one for rule in rules for one in ratios(found, (allocation, rule)).values()]
        accuracy = {
            rule: [line["accuracy"] for line in runs.values()] for rule, runs in own.items()
        }
        rows.append(
            {
                "allocation": f"`{allocation}`",
                **accuracy,
                "bytes": mean(sent),
                "ratio": median(times) if times else None,
            }
        )
    columns = (
        tables.Column("allocation", "allocation", "text"),
        *(tables.Column(rule, f"exported, {RULES[rule]}", "percent") for rule in rules),
        tables.Column("bytes", "sent", "bytes"),
        tables.Column("ratio", "virtual seconds of equal", "ratio"),
    )
    return tables.markdown(rows, columns)


TEXT = """\
# The fair table: allocation and server adapter apart

{environment}

{block}

{missing}Every line trains frozen devices from the same start, a head fitted in closed form to
{probed} images that no device has: {precision} products, AdamW, LoRA of rank 8 in the blocks after
the cut, and the head. All are cut after block {cut}, save that `asfv` and `auto` {choice}.
World: 50 MHz, 0.2 W, path-loss exponent 2.5, 62 dB of loss at 1 m (the paper of ST-SFLora gives
none), Rayleigh fading, 5 to 500 m; the server's computing takes no time. No test image is looked at
while learning rates are chosen, and no device trains on the samples that it holds out in any run.

## Every line

{table}
exported: accuracy of the exported adapter in the unsplit model. served: of a device and the server
together, with the tokens and bits of a device in the middle of the last round (the same where
nothing is left out). samples: trained on, all visits together. steps: of the optimiser, of all
devices together; in a row: how many of them follow each other. of equal, joules of equal: virtual
seconds, and joules of devices, over those of `equal` with the same rule and seed. left out: devices
by the allocation, over all rounds.
central: all training images in one place, in batches of the same size and about as many samples;
blocks after the cut: with adapters where the other lines have them. linear probe: the start.

## What the rule gives, and what the allocation gives

Points of exported accuracy by seed, with an interval by Student's t; nothing is corrected for the
number of lines.

{differences}
    {command}

makes this page of the runs that benchmarks/reports/fair.jsonl holds, and trains what is missing
there, but for rates outside `--rates`. Without options but the first two and `--write` it is the
table at its full size: 20,000 images at 98 pixels, 50 rounds, five seeds, four learning rates. With
another model or other data, say `--model-name` and `--data-name`: their runs are kept apart from
those of this page.
"""
