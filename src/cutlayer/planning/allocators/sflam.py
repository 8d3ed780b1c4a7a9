"""SFLAM's bits, bandwidth and power for weighted latency and energy (arXiv 2504.09114)."""

import numpy as np

from cutlayer.allocate import sflam
from cutlayer.allocate.decision import Decision
from cutlayer.errors import AllocationError
from cutlayer.planning.known.planning_input import PlanningInput, RoundDecisions

BITS = (2, 4, 8, 16, 32)
"""What there is to choose from where the job names no bits."""


def solve(now: PlanningInput) -> RoundDecisions:
    """Bits of each device under the budget on the relative squared error, mean over devices.

    The downlink's time is reckoned at the most bits there are to choose from. Devices that an
    equal share and the fewest bits would not bring in on time are left out.
    """
    method, settings, cut = now.job.method, now.allocation, now.job.cut
    tokens, choices = method.tokens.keep, _choices(now)
    now, left_out = _in_time(now)
    spread, square = now.measures.spread(now.devices, cut)
    width = now.loads.spec.width_at(cut)
    problem = sflam.BitsProblem(
        gain=now.gain,
        power_max_w=now.fleet.power_max_w,
        energy_max_j=now.energy_cap_j,
        time_max_s=now.limit_s,
        fixed_time_s=now.fixed_s(cut, tokens, choices[-1]),
        compute_energy_j=now.compute_j(cut),
        payload_bits=np.stack([now.upload_bits(cut, tokens, bits) for bits in choices], axis=1),
        error=sflam.quantisation_error(width, spread, choices) / (width * square)[:, None],
        error_budget=settings.error_budget * len(now.devices),
        bandwidth_total_hz=now.bandwidth_hz,
        noise_w_per_hz=now.noise_w_per_hz,
        bits=choices,
    )
    plan = sflam.solve(problem, settings.latency_weight)
    decisions = {
        device: Decision(cut, tokens, int(bits), int(bits), float(share), float(power))
        for device, bits, share, power in zip(
            now.devices, plan.bits, plan.bandwidth_hz, plan.power_w, strict=True
        )
    }
    note = f"objective {plan.objective:.4g} after {plan.loops} loops"
    return RoundDecisions(decisions, left_out, plan.round_time_s, note=note)


def _choices(now: PlanningInput) -> tuple[int, ...]:
    """Numbers of bits to choose from, rising."""
    return now.allocation.bits or BITS


def _in_time(now: PlanningInput) -> tuple[PlanningInput, dict[int, str]]:
    cut, tokens, choices = now.job.cut, now.job.method.tokens.keep, _choices(now)
    speed = now.uplink_bps(now.bandwidth_hz / len(now.devices), now.fleet.power_max_w)
    end = now.fixed_s(cut, tokens, choices[-1]) + now.upload_bits(cut, tokens, choices[0]) / speed
    able = end <= now.limit_s
    if not able.any():
        place = int(np.argmin(end - now.limit_s))
        raise AllocationError(
            f"no device can take part: device {now.devices[place]} comes nearest and would need "
            f"{end[place]:.4g} s of the {now.limit_s[place]:.4g} s it has; raise world.deadline_s "
            "or world.coverage_m, or take fewer bits"
        )
    left_out = {
        now.devices[place]: "with an equal share and the fewest bits it would be too late"
        for place in np.flatnonzero(~able)
    }
    return now.take(int(i) for i in np.flatnonzero(able)), left_out
