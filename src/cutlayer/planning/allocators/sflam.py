"""SFLAM's bits, bandwidth and power for weighted latency and energy (arXiv 2504.09114)."""

import numpy as np

from cutlayer.allocate import sflam
from cutlayer.allocate.decision import Decision
from cutlayer.errors import AllocationError
from cutlayer.planning.known.planning_input import PlanningInput, RoundDecisions

BITS = (2, 4, 8, 16, 32)
"""The numbers of bits to choose from if the job names none."""


def solve(known: PlanningInput) -> RoundDecisions:
    """Chooses bits, bandwidth and power under a budget on the mean relative squared error.

    The downlink is timed with the most bits that may be chosen. A device that would be late with
    an equal share of the band and the fewest bits is left out.
    """
    method, settings, cut = known.job.method, known.allocation, known.job.cut
    tokens, choices = method.tokens.keep, _choices(known)
    known, left_out = _in_time(known)
    spread, square = known.measures.spread(known.devices, cut)
    width = known.loads.spec.width_at(cut)
    problem = sflam.BitsProblem(
        gain=known.gain,
        power_max_w=known.fleet.power_max_w,
        energy_max_j=known.energy_cap_j,
        time_max_s=known.limit_s,
        fixed_time_s=known.fixed_s(cut, tokens, choices[-1]),
        compute_energy_j=known.compute_j(cut),
        payload_bits=np.stack([known.upload_bits(cut, tokens, bits) for bits in choices], axis=1),
        error=sflam.quantisation_error(width, spread, choices) / (width * square)[:, None],
        error_budget=settings.error_budget * len(known.devices),
        bandwidth_total_hz=known.bandwidth_hz,
        noise_w_per_hz=known.noise_w_per_hz,
        numbers=known.numbers,
        bits=choices,
    )
    plan = sflam.solve(problem, settings.latency_weight)
    decisions = {
        device: Decision(cut, tokens, int(bits), int(bits), float(share), float(power))
        for device, bits, share, power in zip(
            known.devices, plan.bits, plan.bandwidth_hz, plan.power_w, strict=True
        )
    }
    note = (
        f"seconds and joules, weighed by method.allocation.latency_weight "
        f"{settings.latency_weight:g}, come to {plan.objective:.4g}; found in {plan.loops} passes "
        "over bits and radio"
    )
    return RoundDecisions(decisions, left_out, plan.round_time_s, note=note)


def _choices(known: PlanningInput) -> tuple[int, ...]:
    """Numbers of bits to choose from, rising."""
    return known.allocation.bits or BITS


def _in_time(known: PlanningInput) -> tuple[PlanningInput, dict[int, str]]:
    cut, tokens, choices = known.job.cut, known.job.method.tokens.keep, _choices(known)
    speed = known.uplink_bps(known.bandwidth_hz / len(known.devices), known.fleet.power_max_w)
    end = (
        known.fixed_s(cut, tokens, choices[-1]) + known.upload_bits(cut, tokens, choices[0]) / speed
    )
    able = end <= known.limit_s
    if not able.any():
        place = int(np.argmin(end - known.limit_s))
        raise AllocationError(
            f"no device can take part: device {known.devices[place]} comes nearest and would need "
            f"{end[place]:.4g} s of the {known.limit_s[place]:.4g} s it has; raise "
            "world.deadline_s or world.coverage_m, or take fewer bits"
        )
    why = "with an equal share of the band and the fewest bits it would be too late"
    left_out = {known.devices[place]: why for place in np.flatnonzero(~able)}
    return known.take(int(i) for i in np.flatnonzero(able)), left_out
