"""ST-SFLora's tokens, bandwidth and power (arXiv 2605.26120), as published and solved exactly."""

import numpy as np

from cutlayer.allocate import equal, exact, st_sflora
from cutlayer.allocate.decision import Decision, tokens_of
from cutlayer.allocate.token_problem import TokenPlan, TokenProblem, require_feasible
from cutlayer.errors import AllocationError
from cutlayer.planning.known.planning_input import PlanningInput, RoundDecisions


def solve_as_published(known: PlanningInput) -> RoundDecisions:
    """The alternating algorithm, from K_min tokens and equal bandwidth."""
    known, problem, left_out = _who_takes_part(known)
    ended = st_sflora.solve(problem)
    if ended.plan is None:
        raise AllocationError(
            f"the published algorithm finds no allocation ({ended.reason}): take "
            "method.allocation.solver exact, raise world.bandwidth_hz, or lower "
            "method.allocation.tokens_min"
        )
    return _allotment(known, problem, ended.plan, left_out, None, _how_it_ended(ended, problem))


def solve_exactly(known: PlanningInput) -> RoundDecisions:
    """Solves the same problem by a price on bandwidth, with a bound on the best plan there is."""
    known, problem, left_out = _who_takes_part(known)
    found = exact.solve(problem)
    note = f"the efficiency is at most {100 * found.gap:.2g} % below the best there is"
    return _allotment(known, problem, found.plan, left_out, found.upper_bound, note)


def _how_it_ended(ended: st_sflora.Alternation, problem: TokenProblem) -> str:
    """A sentence on how the published algorithm ended, and what to try if it found little."""
    passes = f"{ended.loops} {'pass' if ended.loops == 1 else 'passes'}"
    if ended.status == "stalled":
        return (
            f"every device sends the fewest tokens, {problem.tokens_min}: the published algorithm "
            "gives each only the bandwidth that those need, which leaves no room for more; take "
            "method.allocation.solver exact, or raise method.allocation.tokens_min"
        )
    if ended.status == "loop limit":
        return (
            f"the published algorithm still changed its allocation after {passes}, and the last "
            "one is taken; method.allocation.solver exact needs no passes"
        )
    return f"the published algorithm found nothing more to change after {passes}"


def token_problem(known: PlanningInput) -> TokenProblem:
    """P0 of a round: all batches of a device are one payload, beta = samples D q."""
    method, cut, spec = known.job.method, known.job.cut, known.loads.spec
    bits = method.uplink.value_bits
    beta = known.loads.samples_trained * spec.width_at(cut) * bits
    one = known.upload_bits(cut, 1, bits)
    importance = known.measures.importance(known.devices, cut)
    return TokenProblem(
        gain=known.gain,
        power_max_w=known.fleet.power_max_w,
        energy_max_j=known.upload_energy_j(cut),
        time_max_s=known.limit_s,
        fixed_time_s=known.fixed_s(cut, None, method.downlink.bits),
        bits_per_token=beta,
        importance=known.loads.samples_trained[:, None] * importance,
        bandwidth_total_hz=known.bandwidth_hz,
        noise_w_per_hz=known.noise_w_per_hz,
        numbers=known.numbers,
        tokens_min=min(known.allocation.tokens_min, spec.patches),
        # CLS and the merged token, and what frames add to their tokens.
        extra_tokens=float((one / beta - 1).max()),
    )


def _who_takes_part(known: PlanningInput) -> tuple[PlanningInput, TokenProblem, dict[int, str]]:
    """The devices that finish within their standing time with equal bandwidth and K_min tokens.

    Returned as a PlanningInput and a problem for them alone, and the reasons of the others.
    """
    problem = token_problem(known)
    able = equal.takes_part(problem)
    if not able.any():
        require_feasible(problem)
        raise AllocationError(
            f"no device can take part: at an equal share of {known.bandwidth_hz:g} Hz none sends "
            f"{problem.tokens_min} tokens within its standing time; raise world.bandwidth_hz, or "
            "lower method.allocation.tokens_min"
        )
    if able.all():
        return known, problem, {}
    why = f"at an equal share its {problem.tokens_min} tokens would miss its standing time"
    left_out = {known.devices[place]: why for place in np.flatnonzero(~able)}
    known = known.take(int(place) for place in np.flatnonzero(able))
    return known, token_problem(known), left_out


def _allotment(
    known: PlanningInput,
    problem: TokenProblem,
    plan: TokenPlan,
    left_out: dict[int, str],
    bound: float | None,
    note: str,
) -> RoundDecisions:
    method = known.job.method
    decisions = {
        device: Decision(
            known.job.cut,
            tokens_of(int(kept), problem.tokens_max),
            method.uplink.bits,
            method.downlink.bits,
            float(width),
            float(power),
        )
        for device, kept, width, power in zip(
            known.devices, plan.tokens, plan.bandwidth_hz, plan.power_w, strict=True
        )
    }
    reckoned = float((problem.fixed_time_s + plan.time_s).max())
    return RoundDecisions(decisions, left_out, reckoned, plan.ste, bound, note)
