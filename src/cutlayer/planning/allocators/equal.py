"""The baseline: the method's own cut, tokens and bits; equal bandwidth, the largest power."""

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.radio_math import power_under_energy
from cutlayer.planning.known.planning_input import PlanningInput, RoundDecisions


def solve(now: PlanningInput) -> RoundDecisions:
    """The same for every device; which devices are too late shows in the round."""
    return in_equal_parts(now, np.full(len(now.devices), now.job.cut))


def in_equal_parts(now: PlanningInput, cuts: npt.NDArray[np.int64]) -> RoundDecisions:
    """Equal bandwidth for devices with these cuts [m]; without the energy for it, none."""
    method = now.job.method
    tokens, up, down = method.tokens.keep, method.uplink.bits, method.downlink.bits
    share = now.bandwidth_hz / (1 if now.turns else len(now.devices))
    link = now.gain / now.noise_w_per_hz
    decisions, left_out, uploads = {}, {}, []
    for cut in np.unique(cuts):
        payload = now.upload_bits(int(cut), tokens, up)
        cap = power_under_energy(payload, share, now.upload_energy_j(int(cut)), link)
        power = np.minimum(now.fleet.power_max_w, cap)
        speed = now.uplink_bps(share, power)
        for place in np.flatnonzero(cuts == cut):
            device = now.devices[place]
            if power[place] <= 0:
                left_out[device] = "no power sends its part within the energy cap"
                continue
            decisions[device] = Decision(
                int(cut), tokens, up, down, float(share), float(power[place])
            )
            uploads.append(float(payload[place] / speed[place]))
    ste = None
    if uploads and method.split and tokens is None and not now.turns:
        ste = float(now.loads.samples_trained.sum()) / max(uploads)  # f(N) of a sample is 1
    return RoundDecisions(decisions, left_out, ste=ste)
