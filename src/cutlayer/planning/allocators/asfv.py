"""ASFV's cut, vehicles, bandwidth and power for the least latency (arXiv 2405.18707)."""

import numpy as np

from cutlayer.allocate import asfv
from cutlayer.allocate.decision import Decision
from cutlayer.planning.known.planning_input import PlanningInput, RoundDecisions


def solve(known: PlanningInput) -> RoundDecisions:
    """As many vehicles as can finish, each at the cut that needs the least bandwidth."""
    method = known.job.method
    tokens, up, down = method.tokens.keep, method.uplink.bits, method.downlink.bits
    value_bits = method.uplink.value_bits
    cuts = known.allocation.cuts or spread_cuts(known.loads.spec.depth)
    # The broadcast carries the largest device part of all.
    broadcast = np.max([known.broadcast_s(cut) for cut in cuts], axis=0)
    fixed = [broadcast + known.following_s(cut, tokens, down) for cut in cuts]
    compute = [known.compute_j(cut) for cut in cuts]
    problem = asfv.VehicleProblem(
        gain=known.gain,
        power_max_w=known.fleet.power_max_w,
        energy_max_j=known.energy_cap_j,
        time_max_s=known.limit_s,
        fixed_time_s=np.stack(fixed, axis=1),
        upload_bits=np.stack([known.upload_bits(cut, tokens, value_bits) for cut in cuts], axis=1),
        compute_energy_j=np.stack(compute, axis=1),
        bandwidth_total_hz=known.bandwidth_hz,
        noise_w_per_hz=known.noise_w_per_hz,
        numbers=known.numbers,
    )
    plan = asfv.solve(problem)
    decisions, left_out = {}, {}
    for place, device in enumerate(known.devices):
        if plan.takes_part[place]:
            share, power = float(plan.bandwidth_hz[place]), float(plan.power_w[place])
            cut = int(cuts[plan.cut[place]])
            decisions[device] = Decision(cut, tokens, up, down, share, power)
        else:
            left_out[device] = (
                "it would finish at no cut while it is in coverage and within its energy"
            )
    return RoundDecisions(decisions, left_out, plan.round_time_s)


def spread_cuts(depth: int) -> tuple[int, ...]:
    """The cuts to choose from: after the first block, and at every quarter of the depth."""
    return tuple(sorted({1, *(max(1, round(depth * part / 4)) for part in (1, 2, 3))}))
