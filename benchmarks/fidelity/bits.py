"""SFLAM: the latency-energy curve of its block coordinate descent, and the bits it chooses."""

from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from benchmarks.fidelity import setting
from benchmarks.fidelity.page import Claim, Section, middle, table

from cutlayer.allocate.radio_math import Floats, Ints
from cutlayer.allocate.sflam import PAPER_BITS, BitsProblem, curve, quantisation_error
from cutlayer.drawing.style import COLOURS, LINES, legend, new_figure
from cutlayer.model.cost import device_cost
from cutlayer.seeds import numpy_rng
from cutlayer.settings.world import WorldSettings
from cutlayer.world.energy import compute_j, compute_s
from cutlayer.world.world import World

DEVICES = 10
BATCH = 128
WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
LEVELS = (3, 6, 12)
"""Error budgets: what all devices would have with so many bits each."""


class Curve(NamedTuple):
    """By weight of latency, of one draw: seconds, joules of all uploads, mean bits, loops."""

    seconds: Floats
    joules: Floats
    bits: Floats
    loops: Ints


def section(figure: Path) -> Section:
    """Curves over the weight of latency, for three error budgets."""
    found = {bits: [_curve(problem(seed, bits)) for seed in setting.SEEDS] for bits in LEVELS}
    _draw(found, figure)
    every = [one for by in found.values() for one in by]
    falls = all((np.diff(c.seconds) <= 1e-6 * c.seconds[0]).all() for c in every)
    rises = all((np.diff(c.joules) >= -1e-6 * c.joules[0]).all() for c in every)
    bends = np.array([_bend(one) for one in every])
    convex = int((bends < 1e-6).sum())
    dents = f"; elsewhere it lies up to {100 * bends.max():.2g} % above a chord" * (
        convex < len(every)
    )
    first = found[LEVELS[-1]]
    shorter = 1 - np.array([one.seconds[-1] / one.seconds[0] for one in first])
    dearer = np.array([one.joules[-1] / one.joules[0] for one in first])
    claims = (
        Claim(
            "latency is traded against energy",
            "a trade-off, solved by block coordinate descent",
            f"with the weight of latency the round {'falls' if falls else 'does not always fall'} "
            f"and the energy {'rises' if rises else 'does not always rise'}; the curve is convex "
            f"in {convex} of {len(every)} draws and budgets{dents}",
            "for given bits the problem is a geometric program, whose trade-off is convex; a "
            "change of bits along the curve may dent it",
        ),
        Claim(
            "what the trade-off is worth",
            "-",
            f"from weight {WEIGHTS[0]:g} to {WEIGHTS[-1]:g} at the budget of {LEVELS[-1]} bits: "
            f"{middle(100 * shorter, 0, ' %')} less time for {middle(dearer)} times the energy",
            "the last seconds cost the most, energy growing exponentially with the rate",
        ),
        Claim(
            "the descent settles",
            "stops when the objective moves less than eps",
            f"in {middle([n for one in every for n in one.loops], 0)} loops",
            "power and bandwidth are one block here, solved exactly: apart, each leaves the other "
            "no slack",
        ),
    )
    budgets = ", ".join(map(str, LEVELS[:-1])) + f" or {LEVELS[-1]}"
    return Section(
        "SFLAM: latency against energy",
        f"ViT-S/16 cut at the embedding, batch {BATCH}, {DEVICES} devices of ST-SFLora's class, "
        "the radio as above. Every device's activations have a range drawn from 4 to 12, and the "
        f"sum of the quantisation errors may be what {budgets} bits everywhere would give; bits "
        f"are chosen from {', '.join(map(str, PAPER_BITS))}. Energy is that of the uploads; "
        "computing takes the same at any weight.",
        claims,
        f"![Energy against latency](figures/{figure.name})\n\n" + _table(found),
    )


def _curve(given: BitsProblem) -> Curve:
    plans = curve(given, WEIGHTS)
    computing = float(given.compute_energy_j.sum())
    return Curve(
        np.array([plan.round_time_s for plan in plans]),
        np.array([plan.energy_total_j for plan in plans]) - computing,
        np.array([plan.bits.mean() for plan in plans]),
        np.array([plan.loops for plan in plans]),
    )


def problem(seed: int, bits: int) -> BitsProblem:
    """A round whose error budget is that of `bits` bits everywhere."""
    world = World(WorldSettings(reference_loss_db=setting.REFERENCE_LOSS_DB), setting.CLIENTS, seed)
    state, spec = world.state(0, 0.0), setting.vit("ViT-S/16", "server")
    # As in the other sections, devices out of radio reach do not take part.
    cohort = np.argsort(-state.gain_up)[: int(0.9 * setting.CLIENTS)]
    cohort = numpy_rng(seed, "fidelity", "bits").choice(cohort, DEVICES, replace=False)
    fleet = world.fleet.take(cohort)
    flops = BATCH * device_cost(spec, 0).forward_flops
    span = numpy_rng(seed, "fidelity", "range").uniform(4, 12, DEVICES)
    error = quantisation_error(spec.width, span)
    return BitsProblem(
        gain=state.gain_up[cohort],
        power_max_w=fleet.power_max_w,
        energy_max_j=np.inf,
        time_max_s=np.inf,
        fixed_time_s=compute_s(flops, fleet),
        compute_energy_j=compute_j(flops, fleet),
        payload_bits=BATCH * spec.tokens * spec.width * np.array(PAPER_BITS, dtype=np.float64),
        error=error,
        error_budget=float(quantisation_error(spec.width, span, (bits,)).sum()),
        bandwidth_total_hz=setting.BANDWIDTH_HZ,
        noise_w_per_hz=world.radio.noise_w_per_hz,
    )


def _bend(one: Curve) -> float:
    """How far a point lies above the chord of two others around it, at most, as a share of it."""
    order = np.argsort(one.seconds, kind="stable")
    times, energy = one.seconds[order], one.joules[order]
    worst = 0.0
    for i in range(1, len(times) - 1):
        for a, b in product(range(i), range(i + 1, len(times))):
            if times[b] > times[a]:
                chord = np.interp(times[i], times[[a, b]], energy[[a, b]])
                worst = max(worst, float(energy[i] / chord) - 1)
    return worst


def _table(found: dict[int, list[Curve]]) -> str:
    rows: list[dict[str, Any]] = []
    for bits, by in found.items():
        for place in (0, WEIGHTS.index(0.5), len(WEIGHTS) - 1):
            rows.append(
                {
                    "budget": bits,
                    "weight": f"{WEIGHTS[place]:g}",
                    "seconds": middle([one.seconds[place] for one in by], 2),
                    "joules": middle([one.joules[place] for one in by], 2),
                    "bits": middle([one.bits[place] for one in by]),
                }
            )
    return table(
        rows,
        ("budget", "error as with (bits)", "count"),
        ("weight", "weight of latency", "text"),
        ("seconds", "round (s)", "text"),
        ("joules", "energy of all uploads (J)", "text"),
        ("bits", "mean bits chosen", "text"),
    )


def _draw(found: dict[int, list[Curve]], path: Path) -> None:
    with new_figure(path, 8.0, 4.6) as figure:
        axes = figure.add_subplot()
        for index, (bits, by) in enumerate(found.items()):
            times = np.median([one.seconds for one in by], axis=0)
            energy = np.median([one.joules for one in by], axis=0)
            axes.plot(
                times, energy, color=COLOURS[index], ls=LINES[index], marker="o", ms=5, lw=1.8,
                label=f"error as with {bits} bits",
            )  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("round (s), median of the draws")
        axes.set_ylabel("energy of all uploads (J)")
        legend(figure)
