"""ST-SFLora's own solver of P0: power, bandwidth and tokens in turn (arXiv 2605.26120).

STE, the semantic transmission efficiency that P0 maximises, is computed by `plan_with_costs` in
token_problem.py.

Its steps, each with the other two variables held:

1. power: the largest that the energy cap allows, up to p_max; at least what the standing time
   needs, p_min = (N0 W / h)(2^(S / (W T_left)) - 1);
2. bandwidth: the least round time tau for which sum_m W_min,m(tau) = W_tot, where W_min inverts
   the rate R_min = max(S / tau, p S / E_max, S / T_left);
3. tokens: the most that fit tau, the energy cap and the standing time at the present rate,
   K = floor(min(N, E_max R / (p beta) - 2, T_left R / beta - 2, tau R / beta - 2)).

Inferred by us: this alternation stalls. Step 2 gives each device just the rate that its present K
needs, so step 3 finds that K again: in this order K never leaves its start. With step 3 before
step 2, devices with better links once add the tokens that fit the slowest device's round time, and
then K stays. Both orders are here, the paper's by default; `solve` reports a stall, and an
infeasible start, as such. `cutlayer.allocate.exact` solves the same problem.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.radio_math import (
    Bools,
    Floats,
    Ints,
    bandwidth_for_rate,
    least_feasible,
    power_for_deadline,
    power_under_energy,
    rate,
)
from cutlayer.allocate.token_problem import TokenPlan, TokenProblem, plan_with_costs

Order = Literal["power-bandwidth-tokens", "power-tokens-bandwidth"]
Status = Literal["settled", "stalled", "infeasible", "loop limit"]

# Rounding must not cost a token: one that exceeds its room by this relative amount still fits.
_FLOOR_SLACK = 1e-9


@dataclass(frozen=True, eq=False)
class Alternation:
    """How the alternating solver ended.

    plan: None if the start was infeasible. status: "settled"; "stalled" if it settled and no
    device has other tokens than at the start; "infeasible"; "loop limit". reason: one sentence.
    loops: outer loops done, including the one that found nothing to change. ste_history: STE after
    each loop, per second.
    """

    plan: TokenPlan | None
    status: Status
    reason: str
    loops: int
    ste_history: tuple[float, ...]


def solve(
    problem: TokenProblem,
    *,
    start: npt.ArrayLike | None = None,
    order: Order = "power-bandwidth-tokens",
    loops_max: int = 50,
    tolerance: float = 1e-9,
) -> Alternation:
    """Alternate from equal bandwidth and `start` tokens ([M] or one number; K_min by default).

    problem: devices, limits and importance. order: of the steps in a loop: powers, bandwidths, then
    tokens (the paper's), or tokens before bandwidths.
    It has settled when a loop leaves the tokens unchanged and changes powers, bandwidths and round
    time by less than `tolerance`, relatively. loops_max: the most loops.
    """
    M = problem.devices
    first = np.broadcast_to(
        np.asarray(problem.tokens_min if start is None else start, dtype=np.int64), (M,)
    )
    tokens = first.copy()
    bandwidth = np.full(M, problem.bandwidth_total_hz / M)
    power = np.zeros(M)
    round_time, history = np.inf, list[float]()
    for loop in range(1, loops_max + 1):
        before = (tokens, np.concatenate([power, bandwidth, [round_time]]))
        power, lowest, ceiling = _powers(problem, tokens, bandwidth)
        if not (power > 0).all() or not (lowest <= ceiling * (1 + tolerance)).all():
            return _infeasible(_power_reason(problem, tokens, lowest, ceiling), loop, history)
        reached = float(
            (problem.payload_bits(tokens) / rate(bandwidth, power, problem.gain_over_noise)).max()
        )
        if order == "power-tokens-bandwidth":
            tokens = _tokens(problem, power, bandwidth, reached)
        shares, round_time = _bandwidths(problem, tokens, power)
        if shares is None:
            m = int(np.argmax(_needed(problem, tokens, power, np.inf)))
            reason = (
                f"bandwidth step: at the powers chosen, {_tokens_text(tokens)} need more than "
                f"bandwidth_total_hz whatever the round time, device {problem.numbers[m]} the most"
            )
            return _infeasible(reason, loop, history)
        bandwidth = shares
        if order == "power-bandwidth-tokens":
            tokens = _tokens(problem, power, bandwidth, round_time)
        if (tokens < problem.tokens_min).any():
            m = int(np.argmax(tokens < problem.tokens_min))
            reason = (
                f"token step: device {problem.numbers[m]} has room for {tokens[m]} tokens, "
                f"tokens_min is {problem.tokens_min}"
            )
            return _infeasible(reason, loop, history)
        plan = plan_with_costs(problem, tokens, bandwidth, power)
        history.append(plan.ste)
        now = np.concatenate([power, bandwidth, [round_time]])
        if np.array_equal(tokens, before[0]) and np.allclose(now, before[1], tolerance, 0.0):
            stalled = np.array_equal(tokens, first)
            reason = (
                "the tokens never left their start: the bandwidth step leaves every device just "
                "the rate that its tokens need"
                if stalled
                else f"nothing changed in loop {loop}"
            )
            status: Status = "stalled" if stalled else "settled"
            return Alternation(plan, status, reason, loop, tuple(history))
    reason = f"still changing after {loops_max} loops"
    return Alternation(plan, "loop limit", reason, loops_max, tuple(history))


def _powers(
    problem: TokenProblem, tokens: Ints, bandwidth: Floats
) -> tuple[Floats, Floats, Floats]:
    """Step 1, powers in W [M]: chosen; least for the standing time; largest under the energy."""
    payload = problem.payload_bits(tokens)
    cap = power_under_energy(payload, bandwidth, problem.energy_max_j, problem.gain_over_noise)
    ceiling = np.minimum(problem.power_max_w, cap)
    lowest = power_for_deadline(payload, problem.upload_max_s, bandwidth, problem.gain_over_noise)
    return ceiling, lowest, ceiling


def _needed(problem: TokenProblem, tokens: Ints, power: Floats, round_time: float) -> Floats:
    """W_min(tau) [M] in Hz, inf where no bandwidth gives R_min at the power."""
    payload = problem.payload_bits(tokens)
    wanted = np.maximum(
        payload / round_time,
        np.maximum(power * payload / problem.energy_max_j, payload / problem.upload_max_s),
    )
    return bandwidth_for_rate(wanted, power, problem.gain_over_noise)


def _bandwidths(problem: TokenProblem, tokens: Ints, power: Floats) -> tuple[Floats | None, float]:
    """Step 2: bandwidths in Hz and the round time; None where no round time fits the band."""
    band = problem.bandwidth_total_hz
    if _needed(problem, tokens, power, np.inf).sum() > band * (1 + 1e-12):
        return None, np.inf
    payload = problem.payload_bits(tokens)
    alone = payload / rate(band, power, problem.gain_over_noise)
    shared = payload / rate(band / problem.devices, power, problem.gain_over_noise)

    def excess(times: Floats) -> Floats:
        return np.array([_needed(problem, tokens, power, t).sum() / band - 1 for t in times])

    # With equal shares every device meets the larger bound, unless energy or standing time
    # asks for more bandwidth; then longer and longer rounds are tried.
    low, high = float(alone.max()), float(shared.max())
    while excess(np.array([high]))[0] > 0 and high < 1e12 * low:
        high *= 4
    round_time = float(least_feasible(excess, np.array([low * (1 - 1e-12)]), np.array([high]))[0])
    shares = _needed(problem, tokens, power, round_time)
    return shares * min(1.0, band / float(shares.sum())), round_time


def _tokens(problem: TokenProblem, power: Floats, bandwidth: Floats, round_time: float) -> Ints:
    """Step 3: the tokens that fit at the present rates."""
    speed = rate(bandwidth, power, problem.gain_over_noise)
    seconds = np.minimum(problem.energy_max_j / power, np.minimum(problem.upload_max_s, round_time))
    room = seconds * speed / problem.bits_per_token
    left = np.minimum(room * (1 + _FLOOR_SLACK), 2.0**60) - problem.extra_tokens
    result: Ints = np.minimum(np.floor(left), problem.tokens_max).astype(np.int64)
    return result


def _infeasible(reason: str, loop: int, history: list[float]) -> Alternation:
    return Alternation(None, "infeasible", reason, loop, tuple(history))


def _tokens_text(tokens: Ints) -> str:
    low, high = int(tokens.min()), int(tokens.max())
    return f"{low} tokens each" if low == high else f"{low} to {high} tokens each"


def _power_reason(problem: TokenProblem, tokens: Ints, lowest: Floats, ceiling: Floats) -> str:
    bad: Bools = ~((ceiling > 0) & (lowest <= ceiling))
    m = int(np.argmax(bad))
    device = f"device {problem.numbers[m]}"
    if ceiling[m] <= 0:
        return (
            f"power step: no power sends the {tokens[m]} tokens of {device} under its "
            f"energy_max_j of {problem.energy_max_j[m]:.6g}"
        )
    return (
        f"power step: {device} needs {lowest[m]:.6g} W for {tokens[m]} tokens within its "
        f"standing time at its share of bandwidth, and may use {ceiling[m]:.6g} W"
    )
