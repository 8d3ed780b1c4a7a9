"""The report of peers.py: a table for each task, and sentences computed from its figures."""

import argparse
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from cutlayer.drawing import tables
from peer_runs import Taken, fastest

OURS = "cutlayer"
AGAIN = "cutlayer_again"
"""cutlayer without the memory of what frozen blocks made of a sample."""
NAMES = {
    "peft": "transformers + PEFT",
    "pfl": "pfl-research",
    "flower": "Flower simulation (Ray)",
    "nvflare": "NVFLARE Collab (simulator)",
    OURS: "cutlayer",
    AGAIN: "cutlayer, frozen blocks at every visit",
}
GOALS = {"flower": 5.0, "pfl": 1.0}
"""How many times a framework's samples a second cutlayer wants to reach."""

FIRST_S = 10.0
"""Seconds in which cutlayer wants to be through its first round."""


@dataclass(frozen=True)
class Measured:
    """A framework's runs of a task. samples: of all devices in a round. why: it has none."""

    framework: str
    samples: int
    runs: Sequence[Taken]
    why: str | None = None

    @property
    def rate(self) -> float:
        """Samples a second of the clock, in the fastest round after the first."""
        return self.samples / fastest(self.runs, lambda one: one.round_s)

    @property
    def cpu_rate(self) -> float:
        """Samples a second of the processor, likewise."""
        return self.samples / fastest(self.runs, lambda one: one.round_cpu_s)

    @property
    def first_s(self) -> float:
        """Seconds from the start of the process to the end of the first round, in the fastest."""
        return min(one.first_s for one in self.runs)

    @property
    def first_cpu_s(self) -> float:
        """Processor seconds for that, likewise."""
        return min(one.first_cpu_s for one in self.runs)

    @property
    def whole_s(self) -> float:
        """Seconds from the start of the process to the end of the last round, in the fastest."""
        return min(one.first_s + sum(one.round_s) for one in self.runs)

    @property
    def row(self) -> dict[str, Any]:
        """Its line of the table."""
        name = {"framework": NAMES[self.framework]}
        if not self.runs:
            return name
        last = self.runs[-1]
        return {
            **name,
            "rate": self.rate,
            "cpu_rate": self.cpu_rate,
            "first_s": self.first_s,
            "first_cpu_s": self.first_cpu_s,
            "whole_s": self.whole_s,
            "peak": median(one.peak_bytes for one in self.runs),
            "up": last.up,
            "down": last.down,
            "loss": f"{last.losses[-1]:.3f}",
        }


COLUMNS = (
    tables.Column("framework", "framework", "text"),
    tables.Column("rate", "samples a second"),
    tables.Column("cpu_rate", "samples a processor second"),
    tables.Column("first_s", "first round after", "seconds"),
    tables.Column("first_cpu_s", "of the processor", "seconds"),
    tables.Column("whole_s", "all rounds after", "seconds"),
    tables.Column("peak", "peak memory", "bytes"),
    tables.Column("up", "up a round", "bytes"),
    tables.Column("down", "down a round", "bytes"),
    tables.Column("loss", "last round's loss", "text"),
)


def findings(title: str, measured: Sequence[Measured]) -> Iterator[str]:
    """What one task's figures say of cutlayer beside the others."""
    for one in measured:
        if one.why is not None:
            yield f"{title}: {NAMES[one.framework]} is not measured: {one.why}."
    there = {one.framework: one for one in measured if one.runs}
    ours, again = there.pop(OURS, None), there.pop(AGAIN, None)
    if ours is None:
        return
    for name, one in there.items():
        clock, cpu = ours.rate / one.rate, ours.cpu_rate / one.cpu_rate
        said = (
            f"{title}: cutlayer trains {clock:.2f} times the samples a second of {NAMES[name]} "
            f"({cpu:.2f} times the samples a processor second)"
        )
        if name in GOALS:
            by_clock, by_processor = (
                "reached" if found >= GOALS[name] else "not reached" for found in (clock, cpu)
            )
            said += (
                f"; after the first round the goal, {GOALS[name]:g} times, is {by_clock} by the "
                f"clock and {by_processor} by processor seconds"
            )
        first, last = (
            _times(getattr(one, key), getattr(ours, key)) for key in ("first_s", "whole_s")
        )
        yield f"{said}. Its first round ends {first}, its last {last}, counted from the start."
        if one.runs[-1].up is not None and ours.runs[-1].up is not None:
            yield (
                f"{title}: up and down, cutlayer sends {_sent(ours) / _sent(one):.3f} times the "
                f"bytes of {NAMES[name]}."
            )
    if "peft" in there and "flower" in there:
        plain = there["peft"].cpu_rate / there["flower"].cpu_rate
        yield (
            f"{title}: plain PEFT trains {plain:.2f} times the samples a processor second of "
            f"{NAMES['flower']}; what is beyond that must come from computing faster, or less."
        )
    if again is not None:
        yield (
            f"{title}: computing the frozen blocks once a sample, and not at every visit, makes "
            f"cutlayer {ours.rate / again.rate:.2f} times as fast after the first round "
            f"({ours.cpu_rate / again.cpu_rate:.2f} times by processor seconds)."
        )
    within = "within" if ours.first_s < FIRST_S else "not within"
    processor = "within" if ours.first_cpu_s < FIRST_S else "not within"
    yield (
        f"{title}: cutlayer's first round ends {ours.first_s:.1f} s after its process began, "
        f"{within} the {FIRST_S:g} s that are its goal, and after {ours.first_cpu_s:.1f} s of the "
        f"processor, {processor} them."
    )
    yield from _same_work(title, there.values())


def _times(theirs: float, ours: float) -> str:
    """How much earlier or later ours ends."""
    if round(max(theirs, ours) / min(theirs, ours), 1) == 1:
        return "at about the same time"
    if theirs > ours:
        return f"{theirs / ours:.1f} times as early"
    return f"{ours / theirs:.1f} times as late"


def _same_work(title: str, others: Collection[Measured]) -> Iterator[str]:
    """Whether the frameworks that share the code of a device's training ended at one loss."""
    losses = [one.runs[-1].losses[-1] for one in others]
    if len(losses) > 1:
        apart = max(losses) - min(losses)
        did = "did" if apart < 1e-3 else "did not do"
        yield (
            f"{title}: the losses of the last round of all but cutlayer, which draws other batches "
            f"and another head, differ by {apart:.2g} at most: they {did} the same work."
        )


def _sent(one: Measured) -> float:
    last = one.runs[-1]
    return float(last.up or 0.0) + float(last.down or 0.0)


TEXT = """\
# The same work in other frameworks

{environment}
{versions}

{model}, LoRA of rank 8 on queries and values (of all blocks where nothing else is said) and a new
head, AdamW, float32, every device in every round; all processes of a framework on one core, one
thread. Frameworks took turns; runs of each: {repeats}. *samples a second*: of training, in the
fastest round after the first, by the clock and by processor seconds of all processes. *first round
after*, *all rounds after*: from the start of the process, with imports, loading and the start of
workers, to the end of the first round and of the last. *peak memory*: resident, what processes
share counted once. In the five minutes before, {busy:.1f} processes of other work wanted one of the
machine's {cores} cores on average; such work lengthens what is told by the clock, and not the
processor seconds.

Bytes up and down are those of all devices in a round, in the mean of all rounds: cutlayer's are
those of its encoded frames; Flower's are the lengths of the
serialised arrays in the messages between server and clients; pfl-research moves nothing in its
simulation, and its are those of the trained tensors, once up and down a device; NVFLARE's are those
of the tensors in calls and answers. Plain PEFT's loop sends nothing. pfl-research also evaluates
every device in its first round, which its algorithm does not let one turn off.

    python benchmarks/peers.py --environments DIR{options} --repeats {repeats} --write

{findings}
{sections}"""
SECTION = """
## {title}

{devices} devices with {samples} images each, batches of {batch}, {rounds} rounds.{blocks}

{table}"""
PARTLY = """

Adapters are in {last} alone. cutlayer cuts there: frozen
devices send what their blocks make of a sample once (`{method}` with `uplink.reuse`), and the
server averages its adapters of all devices, as FedAvg does in the other frameworks. The frozen
blocks compute, and what they make is sent, in the first round, which *samples a second* leaves out
and *all rounds after* holds; with more rounds cutlayer's mean bytes a round are fewer. In the line
*{again}* `uplink.reuse` is false."""


def last_blocks(number: int) -> str:
    """Which blocks they are, in words."""
    return "the model's last block" if number == 1 else f"the model's last {number} blocks"


def report(
    found: Mapping[str, Sequence[Measured]],
    environment: str,
    options: argparse.Namespace,
    busy: float,
    tasks: Mapping[str, Mapping[str, Any]],
) -> str:
    """The text of peers.md. busy: processes of other work before; tasks: by title."""
    said = [f"- {one}" for title, measured in found.items() for one in findings(title, measured)]
    versions: dict[str, str] = {}
    for measured in found.values():
        for one in measured:
            for run in one.runs:
                versions |= run.versions
    sections = []
    for title, rows in found.items():
        blocks, method = tasks[title]["blocks"], tasks[title]["method"]["name"]
        partly = (
            PARTLY.format(last=last_blocks(blocks), method=method, again=NAMES[AGAIN])
            if blocks
            else ""
        )
        table = tables.markdown([one.row for one in rows], COLUMNS)
        sections.append(SECTION.format(**{**tasks[title], "blocks": partly}, table=table))
    return TEXT.format(
        environment=environment,
        versions="In the frameworks: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".",
        model=f"`{options.model.name}`" if options.model else "The demo's ViT (1.2 M parameters)",
        options=" --model DINOV2 --data CIFAR10" if options.model else "",
        repeats=options.repeats,
        busy=busy,
        cores=os.cpu_count(),
        findings="\n".join(said),
        sections="".join(sections),
    )
