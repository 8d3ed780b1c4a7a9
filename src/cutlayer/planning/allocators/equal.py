"""The baseline: the method's own cut, tokens and bits; equal bandwidth, the largest power."""

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.radio_math import power_under_energy
from cutlayer.planning.known.planning_input import PlanningInput, RoundDecisions


def solve(known: PlanningInput) -> RoundDecisions:
    """The same decision for every device; a device may be too late in the round."""
    return in_equal_parts(known, np.full(len(known.devices), known.job.cut))


def in_equal_parts(known: PlanningInput, cuts: npt.NDArray[np.int64]) -> RoundDecisions:
    """Equal bandwidth for devices with these cuts [m]; a device without the energy is left out."""
    method = known.job.method
    tokens, up, down = method.tokens.keep, method.uplink.bits, method.downlink.bits
    value_bits = method.uplink.value_bits
    share = known.bandwidth_hz / (1 if known.turns else len(known.devices))
    link = known.gain / known.noise_w_per_hz
    decisions, left_out = {}, {}
    for cut in np.unique(cuts):
        payload = known.upload_bits(int(cut), tokens, value_bits)
        cap = power_under_energy(payload, share, known.upload_energy_j(int(cut)), link)
        power = np.minimum(known.fleet.power_max_w, cap)
        for place in np.flatnonzero(cuts == cut):
            device = known.devices[place]
            if power[place] <= 0:
                left_out[device] = "no power sends its part within the energy cap"
                continue
            decisions[device] = Decision(
                int(cut), tokens, up, down, float(share), float(power[place])
            )
    return RoundDecisions(decisions, left_out)
