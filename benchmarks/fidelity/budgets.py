"""Mean tokens kept against the bandwidth and energy that a round has, by solver and start."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.fidelity import setting
from benchmarks.fidelity.levers import most_that_fit
from benchmarks.fidelity.page import Claim, Section, spread, table

from cutlayer.allocate import exact, st_sflora
from cutlayer.allocate.radio_math import Floats
from cutlayer.allocate.token_problem import TokenPlan, TokenProblem
from cutlayer.drawing.style import COLOURS, LINES, MARKERS, legend, new_figure

BANDWIDTHS_HZ = (10e6, 20e6, 50e6, 100e6, 200e6)
ENERGIES_J = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

Plan = TokenPlan | None
Sweep = dict[str, tuple[Floats, Floats]]
"""By solver: mean tokens and STE [values, draws] along one field of the problem."""
SOLVERS: dict[str, Callable[[TokenProblem], Plan]] = {
    "paper's order, from K_min": lambda p: st_sflora.solve(p).plan,
    "paper's order, from all that fit": lambda p: st_sflora.solve(p, start=most_that_fit(p)).plan,
    "tokens before bandwidth, from K_min": lambda p: (
        st_sflora.solve(p, order="power-tokens-bandwidth").plan
    ),
    "exact": lambda p: exact.solve(p).plan,
}


def section(rows: Floats, figure: Path) -> Section:
    """The alternation from two starts and in two orders, and the exact solver."""
    wide = sweep(rows, bandwidth_hz=BANDWIDTHS_HZ)
    rich = sweep(rows, energy_max_j=ENERGIES_J)
    _draw(wide, rich, figure)
    return Section(
        "Tokens against bandwidth and energy",
        "The mean of K over devices and draws as W_tot or E_max grows, all else as above. Along a "
        "sweep a draw has the same devices, those that can take part where W_tot, or E_max, is "
        "smallest: so the two tables have different devices. *Tokens before bandwidth* does the "
        "alternation's token step before its bandwidth step.",
        claims_of(wide, rich),
        f"![Mean tokens against bandwidth and energy](figures/{figure.name})\n\n"
        + "\n".join(
            _table(found, values, unit, title)
            for found, values, unit, title in (
                (wide, BANDWIDTHS_HZ, 1e6, "W_tot (MHz)"),
                (rich, ENERGIES_J, 1.0, "E_max (J)"),
            )
        ),
    )


def claims_of(wide: Sweep, rich: Sweep) -> tuple[Claim, ...]:
    """What the sweeps of bandwidth and of the energy cap say of the paper's curves."""

    def ends(found: Sweep, name: str) -> str:
        tokens = found[name][0]
        return f"{np.nanmean(tokens[0]):.1f} to {np.nanmean(tokens[-1]):.1f}"

    first, full, moved, best = SOLVERS
    return (
        Claim(
            "mean K grows with W_tot",
            "grows",
            f"{_verdict(wide, best)} for `exact`: {ends(wide, best)} from "
            f"{BANDWIDTHS_HZ[0] / 1e6:g} to {BANDWIDTHS_HZ[-1] / 1e6:g} MHz; tokens before "
            f"bandwidth: {ends(wide, moved)}",
            "more band shortens the near devices' uploads but hardly the far ones', whose power "
            "is the limit: while the round waits for them, tokens of the near are cheap",
        ),
        Claim(
            "mean K grows with E_max",
            "grows",
            f"{_verdict(rich, best)} for `exact`: {ends(rich, best)} from {ENERGIES_J[0]:g} to "
            f"{ENERGIES_J[-1]:g} J, its STE going from {_ste(rich, best, 0)} to "
            f"{_ste(rich, best, -1)}; tokens before bandwidth: {ends(rich, moved)}",
            "STE is a ratio. Where the cap is tight the far devices must send slowly, the round "
            "is long and the near fill it with tokens; a little more energy shortens it. Once the "
            "cap binds no one, nothing changes any more",
        ),
        Claim(
            "the same, paper's order from K_min",
            "grows",
            f"{_verdict(wide, first)} with W_tot: {ends(wide, first)}; "
            f"{_verdict(rich, first)} with E_max: {ends(rich, first)}",
            "its bandwidth step leaves each device just the rate that its present tokens need",
        ),
        Claim(
            "the same, paper's order from all that fit",
            "grows",
            f"{_verdict(wide, full)} with W_tot: {ends(wide, full)}; "
            f"{_verdict(rich, full)} with E_max: {ends(rich, full)}; at "
            f"{_share(wide, full, best)} and {_share(rich, full, best)} of the STE of "
            "`exact` (mean over the sweep)",
            "the growth is that of the start, the most tokens that fit an equal share, the energy "
            "cap and the stay: our guess at how the paper's curves come about",
        ),
    )


def sweep(rows: Floats, **lists: tuple[float, ...]) -> Sweep:
    """By solver: mean tokens and STE [values, draws] along one field of `setting.problem`.

    Every value has the same devices: those that take part where the field is smallest.
    """
    ((field, values),) = lists.items()
    shape = (len(values), len(setting.SEEDS))
    found = {name: (np.full(shape, np.nan), np.full(shape, np.nan)) for name in SOLVERS}
    for column, seed in enumerate(setting.SEEDS):
        _, members = setting.problem(seed, rows, **{field: min(values)})
        for row, value in enumerate(values):
            problem, _ = setting.problem(seed, rows, members=members, **{field: value})
            for name, solve in SOLVERS.items():
                if plan := solve(problem):
                    found[name][0][row, column] = plan.tokens.mean()
                    found[name][1][row, column] = plan.ste
    return found


def _verdict(found: Sweep, name: str) -> str:
    """Whether mean tokens grow along the sweep and never fall, in how many of the draws."""
    tokens = found[name][0]
    gained = np.nanmean(tokens[-1]) - np.nanmean(tokens[0])
    if abs(gained) <= 0.05:
        return "does not hold"
    steps = np.diff(tokens, axis=0)
    rising = int(((steps >= -0.05).all(axis=0) & (tokens[-1] > tokens[0] + 0.05)).sum())
    draws = steps.shape[1]
    if gained < 0:
        return f"does not hold in the mean (in {rising} of {draws} draws it does)"
    return "holds" if rising == draws else f"holds in {rising} of {draws} draws"


def _ste(found: Sweep, name: str, row: int) -> str:
    return f"{np.nanmean(found[name][1][row]):.0f}"


def _share(found: Sweep, name: str, best: str) -> str:
    return f"{100 * np.nanmean(found[name][1] / found[best][1]):.0f} %"


def _table(found: Sweep, values: tuple[float, ...], unit: float, title: str) -> str:
    rows: list[dict[str, Any]] = []
    for row, value in enumerate(values):
        line: dict[str, Any] = {"value": f"{value / unit:g}"}
        for name, (tokens, ste) in found.items():
            good = np.isfinite(ste[row])
            line[name] = f"{spread(tokens[row, good])} / {ste[row, good].mean():.0f}"
        rows.append(line)
    names = ((name, f"{name}: K / STE", "text") for name in found)
    return table(rows, ("value", title, "text"), *names)


def _draw(wide: Sweep, rich: Sweep, path: Path) -> None:
    with new_figure(path, 9.0, 4.6) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, found, values, label in (
            (panels[0], wide, np.array(BANDWIDTHS_HZ) / 1e6, "bandwidth W_tot (MHz)"),
            (panels[1], rich, np.array(ENERGIES_J), "energy cap E_max (J)"),
        ):
            for index, (name, (tokens, _)) in enumerate(found.items()):
                axes.plot(
                    values, np.nanmean(tokens, axis=1), color=COLOURS[index], ls=LINES[index],
                    marker=MARKERS[index], lw=1.8, ms=6, label=name if axes is panels[0] else None,
                )  # fmt: skip
            axes.set_xscale("log")
            axes.set_xticks(values, [f"{value:g}" for value in values])
            axes.set_xlabel(label)
            axes.set_yscale("log")
            axes.set_ylim(12, 220)
            axes.set_yticks([16, 30, 60, 100, 196], ["16", "30", "60", "100", "196"])
            axes.minorticks_off()
        panels[0].set_ylabel("tokens kept, mean")
        legend(figure)
