"""STE lost when one of the three levers (power, bandwidth, tokens) is frozen and two are free."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from benchmarks.fidelity import setting
from benchmarks.fidelity.page import Claim, Section, spread, table

from cutlayer.allocate import exact, st_sflora
from cutlayer.allocate.radio_math import Floats, Ints, power_under_energy, rate
from cutlayer.allocate.relaxed import least_time
from cutlayer.allocate.token_problem import TokenPlan, TokenProblem, plan_with_costs
from cutlayer.errors import AllocationError

Solve = Callable[[TokenProblem], float]
Losses = dict[str, dict[str, Floats]]
"""By solver and reading: the share of STE lost in each draw, NaN where nothing is feasible."""
TIGHT_J = 0.1
BEST_COMMON = "tokens: the best one K for all"
TITLES = {
    "exact": "`exact`",
    "published": "paper's order",
    "reordered": "tokens before bandwidth",
}


def section(rows: Floats) -> Section:
    """Every reading of "frozen" beside the others: the paper does not say which it took."""
    loose, tight = (losses(rows, cap) for cap in (setting.ENERGY_MAX_J, TIGHT_J))
    return Section(
        "What each lever is worth",
        "The share of STE lost when one lever is frozen and the others are solved again, against "
        "all three free with the same solver; alternations start at K_min. *p_max, p_max / 2*: "
        "every device sends at that power whatever its energy, the cap bounding its air time; "
        "*equal shares*: W_tot / M each; *K*: all devices keep that many. Mean and standard "
        "deviation over the draws in which it is feasible, their number in brackets; a negative "
        "loss is a gain.",
        claims_of(loose, tight),
        "\n".join(
            f"E_max = {cap:g} J:\n\n{_table(found)}"
            for cap, found in ((setting.ENERGY_MAX_J, loose), (TIGHT_J, tight))
        ),
    )


def claims_of(loose: Losses, tight: Losses) -> tuple[Claim, ...]:
    """What the losses under a loose and a tight energy cap say of the paper's order."""
    power, band = loose["exact"]["power: p_max"], loose["exact"]["bandwidth: equal shares"]
    half, best = loose["exact"]["power: p_max / 2"], loose["exact"][BEST_COMMON]
    few = loose["exact"][f"tokens: K = {setting.TOKENS_MIN}"]
    published = loose["published"]["bandwidth: equal shares"]
    kept = loose["published"][f"tokens: K = {setting.TOKENS_MIN}"]
    capped_power = tight["exact"]["power: p_max"]
    infeasible = int((~np.isfinite(capped_power)).sum())
    capped = tight["exact"]["bandwidth: equal shares"], tight["exact"][BEST_COMMON]
    return (
        Claim(
            "power matters least, bandwidth more, tokens most",
            "in this order",
            f"{_holds(power, band, best)} for `exact` with power frozen at p_max: "
            f"{_percent(power)}, {_percent(band)} and {_percent(best)} lost (the last with the "
            "best K that all can share)",
            "where the energy cap does not bind, p_max is the best power, so freezing it there "
            "costs nothing; no common K suits near and far devices alike",
        ),
        Claim(
            "the same, power frozen lower",
            "-",
            f"{_holds(half, band, best)}: at p_max / 2 {_percent(half)} are lost, "
            f"{'more' if _mean(half) > _mean(band) else 'less'} than by equal shares",
            "the paper does not say where it froze the power; a random power lies below p_max too",
        ),
        Claim(
            "the same, under a cap that binds",
            "-",
            f"at E_max = {TIGHT_J:g} J equal shares cost `exact` {_percent(capped[0])}, tokens "
            f"{_percent(capped[1])}; p_max itself is infeasible in {infeasible} of "
            f"{len(capped_power)} draws",
            "energy, not air time, is then what far devices lack",
        ),
        Claim(
            "the same, with the paper's own solver",
            "in this order",
            f"tokens frozen at K_min = {setting.TOKENS_MIN}: {_percent(kept)} lost (`exact`: "
            f"{_percent(few)}); equal shares: {_percent(published)}",
            "its bandwidth step leaves a device just the rate that its present tokens need; "
            "without that step its token step has slack to use",
        ),
    )


def _mean(loss: Floats) -> float:
    return float(loss[np.isfinite(loss)].mean())


def _holds(power: Floats, bandwidth: Floats, tokens: Floats) -> str:
    """Whether the means are in the paper's order."""
    return "holds" if _mean(power) < _mean(bandwidth) < _mean(tokens) else "does not hold"


def _percent(loss: Floats) -> str:
    return spread(100 * loss[np.isfinite(loss)], 1, " %")


def _table(found: dict[str, dict[str, Floats]]) -> str:
    rows: list[dict[str, Any]] = []
    for reading in found["exact"]:
        row: dict[str, Any] = {"frozen": reading}
        for name, by in found.items():
            if reading != BEST_COMMON or name == "exact":
                row[name] = f"{_percent(by[reading])} ({np.isfinite(by[reading]).sum()})"
        rows.append(row)
    return table(
        rows,
        ("frozen", "frozen", "text"),
        *((n, t, "text") for n, t in TITLES.items()),
    )


def at_power(problem: TokenProblem, share: float) -> TokenProblem:
    """P0 with every power held at `share` of p_max: the energy cap is then a cap on air time."""
    power = share * problem.power_max_w
    longest = problem.fixed_time_s + problem.energy_max_j / power
    return replace(
        problem,
        power_max_w=power,
        energy_max_j=np.inf,
        time_max_s=np.minimum(problem.time_max_s, longest),
    )


def at_tokens(problem: TokenProblem, tokens: int) -> TokenProblem:
    """P0 with K = `tokens` for all."""
    return replace(problem, tokens_min=tokens, importance=problem.importance[:, : tokens + 1])


def equal_shares(problem: TokenProblem, tokens: Ints) -> tuple[Floats, Floats]:
    """Seconds and watts [..., M] of uploads at W_tot / M and the largest power; inf if never."""
    share = problem.bandwidth_total_hz / problem.devices
    payload = problem.payload_bits(tokens)
    cap = power_under_energy(payload, share, problem.energy_max_j, problem.gain_over_noise)
    power = np.minimum(problem.power_max_w, cap)
    with np.errstate(divide="ignore"):
        time = payload / rate(share, power, problem.gain_over_noise)
    return np.where(time <= problem.upload_max_s, time, np.inf), power


def most_that_fit(problem: TokenProblem) -> Ints:
    """The most tokens [M] whose upload at an equal share keeps the energy cap and the stay."""
    grid = np.arange(problem.tokens_min, problem.tokens_max + 1)[:, None]
    fits = np.isfinite(equal_shares(problem, np.repeat(grid, problem.devices, axis=1))[0])
    most: Ints = problem.tokens_min + fits.sum(axis=0) - 1
    return np.maximum(most, problem.tokens_min)


def best_at_equal_shares(problem: TokenProblem) -> float:
    """The best STE with equal bandwidth, exact: every time at which some device gains a token."""
    grid = np.arange(problem.tokens_min, problem.tokens_max + 1)[:, None]
    times, _ = equal_shares(problem, np.repeat(grid, problem.devices, axis=1))
    if not np.isfinite(times[0]).all():
        return np.nan
    ends = np.unique(times[np.isfinite(times)])
    ends = ends[ends >= times[0].max()]
    counts = (times[None] <= ends[:, None, None] * (1 + 1e-12)).sum(axis=1)
    return float((problem.value(problem.tokens_min + counts - 1) / ends).max())


def alternate_at_equal_shares(problem: TokenProblem) -> float:
    """The paper's power and token steps in turn from K_min, without its bandwidth step."""
    share = np.full(problem.devices, problem.bandwidth_total_hz / problem.devices)
    tokens, plan = np.full(problem.devices, problem.tokens_min), None
    for _ in range(50):
        times, power = equal_shares(problem, tokens)
        if not np.isfinite(times).all():
            break
        plan = plan_with_costs(problem, tokens, share, power)
        speed = rate(share, power, problem.gain_over_noise)
        seconds = np.minimum(problem.energy_max_j / power, problem.upload_max_s)
        seconds = np.minimum(seconds, plan.round_time_s) * (1 + 1e-9)
        room = np.floor(seconds * speed / problem.bits_per_token) - problem.extra_tokens
        more = np.minimum(room, problem.tokens_max).astype(np.int64)
        if np.array_equal(more, tokens):
            break
        tokens = more
    return _ste(plan)


def best_common_tokens(problem: TokenProblem) -> float:
    """The best STE with one K for all; bandwidth and power are the best for it."""
    grid = np.arange(problem.tokens_min, problem.tokens_max + 1)[:, None]
    tokens = np.repeat(grid, problem.devices, axis=1)
    return float((problem.value(tokens) / least_time(problem, tokens)).max())


def _exact(problem: TokenProblem) -> float:
    try:
        return exact.solve(problem).plan.ste
    except AllocationError:
        return np.nan


def _alternating(order: st_sflora.Order) -> Solve:
    return lambda problem: _ste(st_sflora.solve(problem, order=order).plan)


def _ste(plan: TokenPlan | None) -> float:
    return np.nan if plan is None else plan.ste


def _frozen(solve: Solve, equal: Solve, tokens_max: int) -> dict[str, Solve]:
    """By reading of "frozen": the STE that is left."""
    tokens = {f"tokens: K = {k}": k for k in (setting.TOKENS_MIN, tokens_max // 2, tokens_max)}
    return {
        "power: p_max": lambda p: solve(at_power(p, 1.0)),
        "power: p_max / 2": lambda p: solve(at_power(p, 0.5)),
        "power: p_max / 10": lambda p: solve(at_power(p, 0.1)),
        "bandwidth: equal shares": equal,
        **{name: lambda p, k=k: solve(at_tokens(p, k)) for name, k in tokens.items()},
        BEST_COMMON: best_common_tokens,
    }


SOLVERS: dict[str, tuple[Solve, Solve]] = {
    "exact": (_exact, best_at_equal_shares),
    "published": (_alternating("power-bandwidth-tokens"), alternate_at_equal_shares),
    "reordered": (_alternating("power-tokens-bandwidth"), alternate_at_equal_shares),
}


def losses(rows: Floats, energy_max_j: float) -> Losses:
    """The losses of every solver and reading under an energy cap."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in SOLVERS}
    for seed in setting.SEEDS:
        problem, _ = setting.problem(seed, rows, energy_max_j=energy_max_j)
        for name, (solve, equal) in SOLVERS.items():
            whole = solve(problem)
            for reading, left in _frozen(solve, equal, problem.tokens_max).items():
                found[name].setdefault(reading, []).append(1 - left(problem) / whole)
    return {name: {r: np.array(v) for r, v in by.items()} for name, by in found.items()}
