"""The exact solver beside the paper's alternation: STE, what is known of the optimum, and time."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from benchmarks.fidelity import setting
from benchmarks.fidelity.levers import equal_shares
from benchmarks.fidelity.page import Claim, Section, middle, table

from cutlayer.allocate import equal, exact, st_sflora
from cutlayer.allocate.radio_math import Floats
from cutlayer.allocate.token_problem import obstacles
from cutlayer.seeds import numpy_rng

FLEETS = (10, 100, 10_000)
HARD = 100
KEPT_MIN = (1, 4, 16, 64)


def section(rows: Floats) -> Section:
    """Gains and gaps by K_min; seconds by the size of the fleet."""
    lines = [_line(rows, kept) for kept in KEPT_MIN]
    base = next(line for line in lines if line["kept"] == setting.TOKENS_MIN)
    every = [gap for line in lines for gap in line["gaps"]]
    clock = [_timed(rows, devices) for devices in FLEETS]
    gaps, hard = _hard(rows)
    claims = (
        Claim(
            "the alternation reaches a good allocation",
            "no optimality claimed",
            f"`exact` has {middle(base['first'], 2)} times its STE from K_min = "
            f"{setting.TOKENS_MIN}, {middle(base['second'], 2)} times with tokens before bandwidth",
            "the first keeps K_min for all; the second fills the near devices up to the round "
            "time of the slowest, though a little less for them would shorten it",
        ),
        Claim(
            "`exact` is exact",
            "-",
            f"the best allocation there can be is at most {100 * max(every):.3f} % above it in "
            f"{len(every)} instances; proven optimal in {sum(gap <= 0 for gap in every)}",
            "upper bound from the dual; small gaps are closed by trying the token vectors left",
        ),
        Claim(
            "the same where caps and stays both bind",
            "-",
            f"gap 0 in {sum(gap <= 0 for gap in gaps)} of {len(gaps)} solvable draws, at most "
            f"{100 * max(gaps):.2g} %; {middle(hard, 2)} processor seconds",
            "with many different stays the best STE has several local maxima over the round time",
        ),
    )
    gains = (
        ("kept", "K_min", "count"),
        ("first", "STE of exact / paper's order", "text"),
        ("second", "exact / tokens before bandwidth", "text"),
        ("equal", "exact / equal shares, K_min", "text"),
        ("mean", "mean K of exact", "text"),
        ("gap", "largest gap (%)", "text"),
    )
    shown = [
        {**line, **{key: middle(line[key], 2) for key in ("first", "second", "equal")}}
        for line in lines
    ]
    seconds = (
        ("devices", "devices", "count"),
        ("exact", "exact (s)", "text"),
        ("gap", "gap (%)", "text"),
        ("published", "paper's order (s)", "text"),
        ("equal", "equal shares (ms)", "text"),
    )
    return Section(
        "The exact solver and the alternation",
        "Medians and ranges over the draws. At K_min = 1 the alternation keeps one token a device; "
        "a larger K_min narrows what there is to gain. Times are processor seconds of one core on "
        f"one draw with {setting.BANDWIDTH_HZ / setting.PARTICIPANTS / 1e6:g} MHz a device, best "
        "of three.",
        claims,
        table(shown, *gains) + "\n" + table(clock, *seconds),
    )


def _line(rows: Floats, kept: int) -> dict[str, Any]:
    first, second, flat, gaps, means = [], [], [], [], []
    for seed in setting.SEEDS:
        problem, _ = setting.problem(seed, rows, tokens_min=kept)
        best = exact.solve(problem)
        gaps.append(best.gap)
        means.append(best.plan.tokens.mean())
        for order, ratios in (
            ("power-bandwidth-tokens", first),
            ("power-tokens-bandwidth", second),
        ):
            if plan := st_sflora.solve(problem, order=order).plan:
                ratios.append(best.plan.ste / plan.ste)
        flat.append(best.plan.ste / equal.solve(problem).ste)
    return {
        "kept": kept,
        "first": first,
        "second": second,
        "equal": flat,
        "mean": middle(means),
        "gaps": gaps,
        "gap": f"{100 * max(gaps):.3f}",
    }


def _timed(rows: Floats, devices: int) -> dict[str, Any]:
    share = setting.BANDWIDTH_HZ / setting.PARTICIPANTS
    pool = {"clients": 2 * devices, "bandwidth_hz": share * devices}
    _, able = setting.problem(0, rows, participants=1.5 * devices, **pool)
    problem, members = setting.problem(0, rows, members=np.sort(able)[:devices], **pool)
    return {
        "devices": len(members),
        "exact": f"{_seconds(lambda: exact.solve(problem)):.3g}",
        "gap": f"{100 * exact.solve(problem).gap:.3f}",
        "published": f"{_seconds(lambda: st_sflora.solve(problem)):.3g}",
        "equal": f"{1e3 * _seconds(lambda: equal.solve(problem)):.2g}",
    }


def _seconds(call: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def _hard(rows: Floats) -> tuple[list[float], list[float]]:
    """Gaps and seconds of draws whose energy caps and stays each bind for some device.

    Every device's limits are those of an upload of a random number of tokens at an equal share,
    with a spread of a factor of two.
    """
    gaps, seconds = [], []
    for seed in range(HARD):
        rng = numpy_rng(seed, "fidelity", "hard")
        problem, _ = setting.problem(seed, rows, energy_max_j=np.inf)
        M = problem.devices
        times, power = equal_shares(problem, rng.integers(problem.tokens_min, 197, M))
        stay, energy = (rng.lognormal(0.3, 0.7, M) for _ in range(2))
        good = np.isfinite(times)
        problem = replace(
            problem,
            time_max_s=np.where(good, problem.fixed_time_s + stay * times, np.inf),
            energy_max_j=np.where(good, energy * power * times, np.inf),
        )
        if obstacles(problem):
            continue
        start = time.process_time()
        gaps.append(exact.solve(problem).gap)
        seconds.append(time.process_time() - start)
    return gaps, seconds
