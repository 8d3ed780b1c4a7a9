"""The report of the fair table and what README.md shows of it, all findings computed."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from cutlayer.drawing import tables
from fair_findings import RULES, Runs, differences, findings, headline, middle_of, ratios
from fair_lines import PROBE, Line, Lines
from shared_blocks import copy_block, marked

REPORTS = Path(__file__).parent / "reports"
HEADLINE = "fair"
"""The report of which README.md shows a part."""
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
    """Write the report, and what README.md shows of it where it is the headline. every: all
    allocations that there are.
    """
    found: Runs = {}
    for cell in cells:
        rate = lines.tuned(*cell, options.rates)
        runs = {s: lines.find(*cell, s, rate) for s in options.seeds if rate is not None}
        if there := {seed: line for seed, line in runs.items() if line}:
            found[cell] = there
    probes = {s: line for s in options.seeds if (line := lines.find(PROBE, "", s))}
    text = page(found, probes, options, missing(found, every), command)
    report = REPORTS / f"{options.report}.md"
    report.write_text(text)
    if options.report == HEADLINE:
        copy_block(report, README)


def page(
    found: Runs,
    probes: Mapping[int, Line],
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
    return TEXT.format(
        environment="\n\n".join(sorted(places)),
        block=marked(
            f"{options.report}.md",
            f"{setting(options, found)}\n\n{short(found)}\n{listed(headline(found, probes))}",
        ),
        findings=listed(findings(found, options.rates)),
        missing=missing,
        table=tables.markdown(rows, COLUMNS),
        differences=tables.markdown(list(differences(found)), DIFFERENCES),
        rates=", ".join(f"{rate:g}" for rate in options.rates),
        probed=", ".join(map(str, sorted(samples))) or "no",
        choice=choice(options),
        cut=options.cut,
        precision=options.precision,
        held_out=100 * options.held_out,
        command=command,
    )


def missing(found: Runs, every: Sequence[str]) -> str:
    """One sentence on what the table has no line of."""
    there = {allocation for allocation, _ in found}
    names = [f"`{name}`" for name in every if name not in there]
    if not names:
        return "Every allocation has its lines."
    return (
        f"Not trained yet: {', '.join(names)}. The command below adds them if `--allocations` and "
        "`--central` are left out."
    )


def listed(sentences: Iterable[str]) -> str:
    """A line each."""
    return "\n".join(f"- {one}" for one in sentences)


def setting(options: argparse.Namespace, found: Runs) -> str:
    """What was trained how far, for README and report."""
    seeds = sorted({seed for runs in found.values() for seed in runs})
    visits = [line["visits"] for runs in found.values() for line in runs.values()]
    return (
        f"{options.model_name} ({options.image_size} pixels a side, cut after block "
        f"{options.cut}) on {options.data_name}: {options.train:,} training and "
        f"{options.test:,} test images, "
        f"{options.devices} devices with Dirichlet 0.5, {options.per_round} a round, "
        f"{options.rounds} rounds of one epoch, batches of {options.batch_size}: "
        f"{min(visits):,} to {max(visits):,} samples trained on in a run. Seeds "
        f"{', '.join(map(str, seeds))}: mean and range. `asfv` and `auto` {choice(options)}; with "
        "an earlier cut the server trains more blocks."
    )


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
        *(tables.Column(rule, RULES[rule], "percent") for rule in rules),
        tables.Column("bytes", "sent", "bytes"),
        tables.Column("ratio", "virtual seconds of equal", "ratio"),
    )
    return tables.markdown(rows, columns)


TEXT = """\
# The fair table: allocation and server adapter apart

{environment}

{block}
{findings}

{missing}

Every line trains frozen devices from the same start, a head fitted in closed form to {probed}
images that no device has: {precision} products, AdamW, LoRA of rank 8 in the blocks after the cut,
and the head. All are cut after block {cut}, save that `asfv` and `auto` {choice}. Each
allocation brings the coding of what crosses that its paper has (`equal`, `st-sflora`, `exact` and
`asfv` float32, `sflam` and `auto` the bits that they choose, `lean` half a bit a value); all but
`lean` send a sample at every visit. World: 50 MHz, 0.2 W, path-loss exponent 2.5, 62 dB of loss at
1 m, Rayleigh fading, 5 to 500 m; the server's computing takes no time.

The learning rate of each line is that of {rates} with the highest accuracy on
the {held_out:.0f} % of their samples that devices hold out, in one run with a seed that is not in
the table; no device trains on those in any run, and no test image is looked at.

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
there. Without options but the first two and `--write` it is the table at its full size: 20,000
images at 98 pixels, 50 rounds, five seeds, four learning rates. With another model or other data,
say `--model-name` and `--data-name`: their runs are kept apart from those of this page.
"""
