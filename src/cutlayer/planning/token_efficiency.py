"""Semantic transmission efficiency (STE) of any round whose tokens are ranked, or all sent.

It is that of ST-SFLora (arXiv 2605.26120), by the same formula, `efficiency` in
allocate/token_problem.py: the importance of the tokens kept, summed over samples and devices, over
the seconds of the longest upload. An upload is what the round is expected to send: activations, and
the device's adapter where it trains one.
"""

from collections.abc import Mapping

import numpy as np

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.round_shape import RoundShape
from cutlayer.allocate.token_problem import efficiency
from cutlayer.planning.known.planning_input import Floats, PlanningInput


def token_efficiency(known: PlanningInput, shape: RoundShape) -> float | None:
    """STE per second of a round as planned.

    None without a split, where devices take turns (there is no longest upload that others wait
    for), where nothing is sent, and where the importance of the tokens kept is not known (see
    `importance_kept`).
    """
    if not known.job.method.split or known.turns:
        return None
    shares = importance_kept(known, shape.decisions)
    if shares is None:
        return None
    traffic = [shape.traffic[device] for device in shape.decisions]
    bits = 8.0 * np.array([one.activations + one.adapter_up for one in traffic])
    with np.errstate(divide="ignore"):
        longest = float((bits / known.decided_bps(shape.decisions)).max())
    if longest <= 0:
        return None
    samples = known.loads.samples_trained[[known.place[device] for device in shape.decisions]]
    return efficiency(float(samples @ shares), longest)


def importance_kept(known: PlanningInput, decisions: Mapping[int, Decision]) -> Floats | None:
    """f(K) of each device that takes part: the share of a sample's scores that its K tokens hold.

    1 where all tokens are kept. None where a device keeps fewer and nothing says how important they
    are: neither its own measurement nor a calibration.
    """
    places, most = list(decisions), known.loads.spec.patches
    shares = np.ones(len(places))
    fewer: dict[int, list[int]] = {}
    for at, one in enumerate(decisions.values()):
        if one.keep(most) < most:
            fewer.setdefault(one.cut, []).append(at)
    for cut, here in fewer.items():
        curves = known.measures.importance_at_hand([places[at] for at in here], cut)
        if curves is None:
            return None
        kept = np.array([decisions[places[at]].keep(most) for at in here])
        shares[here] = curves[np.arange(len(here)), np.minimum(kept, curves.shape[1] - 1)]
    return shares
