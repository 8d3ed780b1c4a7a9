"""GenFV's vehicles, bandwidth and power (arXiv 2503.19676); the amount: see rounds/generated.py."""

import numpy as np

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.genfv import select, share_band
from cutlayer.allocate.radio_math import LN2
from cutlayer.allocate.uploads import Uploads
from cutlayer.planning.known.planning_input import Floats, Ints, PlanningInput, RoundDecisions


def solve(now: PlanningInput) -> RoundDecisions:
    """Vehicles near enough in labels that can be in time together, all done at once."""
    reached, chosen = _chosen(now)
    # The part of a reason before its colon is its kind, for pictures.
    left_out = {
        device: _reason(now, reached, place)
        for place, device in enumerate(now.devices)
        if place not in chosen
    }
    if not len(chosen):
        return RoundDecisions({}, left_out)
    some = now.take(chosen)
    radio = share_band(_uploads(some))
    method = now.job.method
    tokens, up, down = method.tokens.keep, method.uplink.bits, method.downlink.bits
    decisions = {
        device: Decision(now.job.cut, tokens, up, down, float(width), float(power))
        for device, width, power in zip(
            some.devices, radio.bandwidth_hz, radio.power_w, strict=True
        )
    }
    return RoundDecisions(decisions, left_out, radio.round_time_s)


def _chosen(now: PlanningInput) -> tuple[Ints, Ints]:
    """Places of the vehicles that the broadcast is made for, and of those that take part.

    The broadcast's rate is that of the worst gain, so that waiting for one vehicle in a deep fade
    may cost all others their time in coverage. The worst is left out for as long as more vehicles
    can then take part.
    """
    by_gain = np.argsort(-now.state.gain_down, kind="stable")
    reached, chosen = by_gain[:0], by_gain[:0]
    for count in range(len(by_gain), 0, -1):
        if len(chosen) >= count:
            break
        some = now.take(by_gain[:count])
        able = by_gain[:count][select(_uploads(some), _distance(some), now.allocation.emd_max)]
        if len(able) > len(chosen) or not len(reached):
            reached, chosen = by_gain[:count], np.sort(able)
    return reached, chosen


def _reason(now: PlanningInput, reached: Ints, place: int) -> str:
    """Why the vehicle at `place` does not take part."""
    distance, emd_max = _distance(now)[place], now.allocation.emd_max
    if distance > emd_max:
        return f"label mix: an EMD of {distance:.2f} is above {emd_max:g}"
    if place not in reached:
        return "weak link: others could not wait for a broadcast that reaches it"
    uploads = _uploads(now.take(reached))
    index = int(np.flatnonzero(reached == place)[0])
    least_j = uploads.payload_bits[index] * LN2 / uploads.gain_over_noise[index]
    if uploads.energy_max_j[index] <= least_j:
        return "energy: its cap does not send the model at any power"
    limit = f"{now.limit_s[place]:.3g} s"
    if np.isinf(uploads.needed_hz(np.inf)[index]):
        return f"stay time: {limit} are too few to compute and send, at any bandwidth"
    return f"band: it does not suffice to send within {limit}, others considered"


def _distance(now: PlanningInput) -> Floats:
    """Earth mover's distances of labels [m]; 0 where nobody shared labels, as in a plan."""
    return np.zeros(len(now.devices)) if now.label_emd is None else now.label_emd


def _uploads(now: PlanningInput) -> Uploads:
    """A thousandth of the time is kept as a margin: headers of frames may be longer than computed."""
    method, cut = now.job.method, now.job.cut
    tokens = method.tokens.keep
    return Uploads(
        payload_bits=now.upload_bits(cut, tokens, method.uplink.bits),
        fixed_s=now.fixed_s(cut, tokens, method.downlink.bits),
        limit_s=now.limit_s * (1 - 1e-3),
        power_max_w=now.fleet.power_max_w,
        energy_max_j=now.upload_energy_j(cut),
        gain_over_noise=now.gain / now.noise_w_per_hz,
        band_hz=now.bandwidth_hz,
    )
