"""GenFV's vehicles, bandwidth and power (arXiv 2503.19676).

rounds/generated.py decides how many images are generated.
"""

import numpy as np

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.genfv import select, share_band
from cutlayer.allocate.radio_math import LN2
from cutlayer.allocate.uploads import Uploads
from cutlayer.planning.known.planning_input import Floats, Ints, PlanningInput, RoundDecisions


def solve(known: PlanningInput) -> RoundDecisions:
    """Chooses vehicles whose labels are near enough and that can be in time together; all of them
    finish at the same second.
    """
    reached, chosen = _chosen(known)
    # Pictures show only the part of a reason before its colon.
    left_out = {
        device: _reason(known, reached, place)
        for place, device in enumerate(known.devices)
        if place not in chosen
    }
    if not len(chosen):
        return RoundDecisions({}, left_out)
    some = known.take(chosen)
    radio = share_band(_uploads(some))
    method = known.job.method
    tokens, up, down = method.tokens.keep, method.uplink.bits, method.downlink.bits
    decisions = {
        device: Decision(known.job.cut, tokens, up, down, float(width), float(power))
        for device, width, power in zip(
            some.devices, radio.bandwidth_hz, radio.power_w, strict=True
        )
    }
    return RoundDecisions(decisions, left_out, radio.round_time_s)


def _chosen(known: PlanningInput) -> tuple[Ints, Ints]:
    """Places of the vehicles that the broadcast reaches, and of those that take part.

    The worst gain decides the broadcast's rate, so one vehicle in a deep fade may cost all others
    their time in coverage. The vehicles of worst gain are left out if more can then take part.
    """
    by_gain = np.argsort(-known.state.gain_down, kind="stable")
    reached, chosen = by_gain[:0], by_gain[:0]
    for count in range(len(by_gain), 0, -1):
        if len(chosen) >= count:
            break
        some = known.take(by_gain[:count])
        able = by_gain[:count][select(_uploads(some), _distance(some), known.allocation.emd_max)]
        if len(able) > len(chosen) or not len(reached):
            reached, chosen = by_gain[:count], np.sort(able)
    return reached, chosen


def _reason(known: PlanningInput, reached: Ints, place: int) -> str:
    """Why the vehicle at `place` does not take part."""
    distance, emd_max = _distance(known)[place], known.allocation.emd_max
    if distance > emd_max:
        return (
            f"label mix: its labels differ from all labels by an EMD of {distance:.2f}, and "
            f"method.allocation.emd_max is {emd_max:g}"
        )
    if place not in reached:
        return "weak link: others could not wait for a broadcast that reaches it"
    uploads = _uploads(known.take(reached))
    index = int(np.flatnonzero(reached == place)[0])
    least_j = uploads.payload_bits[index] * LN2 / uploads.gain_over_noise[index]
    if uploads.energy_max_j[index] <= least_j:
        return "energy: its cap is too small to send the model at any power"
    limit = f"{known.limit_s[place]:.3g} s"
    if np.isinf(uploads.needed_hz(np.inf)[index]):
        return f"stay time: it has {limit}, too few to compute and send at any bandwidth"
    return f"band: the others leave too little of it to send within {limit}"


def _distance(known: PlanningInput) -> Floats:
    """Earth mover's distances of labels [m]; 0 where nobody shared labels, as in a plan."""
    return np.zeros(len(known.devices)) if known.label_emd is None else known.label_emd


def _uploads(known: PlanningInput) -> Uploads:
    """The vehicles' uploads; 1/1000 of the time is kept as a margin, as frame headers may be
    longer than computed.
    """
    method, cut = known.job.method, known.job.cut
    tokens = method.tokens.keep
    return Uploads(
        payload_bits=known.upload_bits(cut, tokens, method.uplink.bits),
        fixed_s=known.fixed_s(cut, tokens, method.downlink.bits),
        limit_s=known.limit_s * (1 - 1e-3),
        power_max_w=known.fleet.power_max_w,
        energy_max_j=known.upload_energy_j(cut),
        gain_over_noise=known.gain / known.noise_w_per_hz,
        band_hz=known.bandwidth_hz,
        numbers=known.numbers,
    )
