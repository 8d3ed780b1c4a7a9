"""The baseline: every device the same bandwidth and tokens, at the largest power it may use."""

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.radio_math import Bools, power_under_energy
from cutlayer.allocate.token_problem import TokenPlan, TokenProblem, plan_with_costs
from cutlayer.errors import AllocationError


def solve(problem: TokenProblem, tokens: npt.ArrayLike | None = None) -> TokenPlan:
    """The plan in which each device has W_tot / M Hz and the largest power that it may use.

    tokens: kept by each device, [M] or one number; K_min by default. Standing times are ignored
    here: `takes_part` says who is late. AllocationError where no power sends the tokens within the
    energy cap.
    """
    M = problem.devices
    kept = np.broadcast_to(
        np.asarray(problem.tokens_min if tokens is None else tokens, dtype=np.int64), (M,)
    ).copy()
    if not ((kept >= problem.tokens_min) & (kept <= problem.tokens_max)).all():
        raise AllocationError(
            f"tokens are {kept.min()} to {kept.max()}: they must be {problem.tokens_min} to "
            f"{problem.tokens_max}"
        )
    bandwidth = np.full(M, problem.bandwidth_total_hz / M)
    cap = power_under_energy(
        problem.payload_bits(kept), bandwidth, problem.energy_max_j, problem.gain_over_noise
    )
    if (cap <= 0).any():
        m = int(np.argmin(cap))
        raise AllocationError(
            f"energy_max_j of device {problem.numbers[m]} is {problem.energy_max_j[m]:.6g}: no "
            f"power sends {kept[m]} tokens with it"
        )
    return plan_with_costs(problem, kept, bandwidth, np.minimum(problem.power_max_w, cap))


def takes_part(problem: TokenProblem, plan: TokenPlan | None = None) -> Bools:
    """Flags [M]: whether T_0 + T_U is within the device's standing time (arXiv 2605.26120).

    The upload time T_U is the plan's. Without a plan it is that of equal bandwidth, K_min tokens
    and the largest power under the energy cap: inferred by us, since the paper tests before it
    allocates.
    """
    if plan is not None:
        late: Bools = plan.time_s > problem.upload_max_s * (1 + 1e-9)
        return ~late
    share = problem.bandwidth_total_hz / problem.devices
    payload = problem.payload_bits(problem.tokens_min)
    cap = power_under_energy(payload, share, problem.energy_max_j, problem.gain_over_noise)
    power = np.minimum(problem.power_max_w, cap)
    speed = np.maximum(share * np.log2(1 + power * problem.gain_over_noise / share), 1e-300)
    within = payload / speed <= problem.upload_max_s * (1 + 1e-12)
    enough: Bools = (power > 0) & (problem.upload_max_s > 0) & within
    return enough
