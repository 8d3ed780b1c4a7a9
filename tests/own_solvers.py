"""Allocators of one's own, as users write them: a good one, and one for each kind of fault."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from cutlayer.planning.allocators.equal import in_equal_parts
from cutlayer.planning.known.planning_input import PlanningInput, RoundDecisions


def a_cut_each(now: PlanningInput) -> RoundDecisions:
    """Device m cuts after block m + 1."""
    return in_equal_parts(now, np.asarray(now.devices) + 1)


def a_rate_each(now: PlanningInput) -> RoundDecisions:
    """Two cuts, and the fewer bits a value the larger a device's number."""
    decided = in_equal_parts(now, 1 + np.asarray(now.devices) % 2)
    return replace(
        decided,
        decisions={
            device: replace(one, rate_bits=0.5 / (1 + device))
            for device, one in decided.decisions.items()
        },
    )


def _with(**changes: Any) -> Callable[[PlanningInput], RoundDecisions]:
    """Equal shares, but the first device's decision is another."""

    def solve(now: PlanningInput) -> RoundDecisions:
        decided = in_equal_parts(now, np.full(len(now.devices), now.job.cut))
        first = now.devices[0]
        wrong = replace(decided.decisions[first], **changes)
        return replace(decided, decisions=decided.decisions | {first: wrong})

    return solve


def _a_stranger(now: PlanningInput) -> RoundDecisions:
    decided = in_equal_parts(now, np.full(len(now.devices), now.job.cut))
    return replace(decided, decisions=decided.decisions | {99: decided.decisions[now.devices[0]]})


def _both(now: PlanningInput) -> RoundDecisions:
    decided = in_equal_parts(now, np.full(len(now.devices), now.job.cut))
    return replace(decided, left_out={now.devices[0]: "tired"})


FAULTS: dict[str, tuple[Callable[[PlanningInput], Any], str]] = {
    "nan_bandwidth": (_with(bandwidth_hz=math.nan), "bandwidth_hz nan: give a finite number"),
    "endless_power": (_with(power_w=math.inf), "power_w inf: give a finite number"),
    "no_power": (_with(power_w=0.0), "power_w 0.0: give a finite number above 0"),
    "much_power": (_with(power_w=5.0), "power_w 5: it has 0.2 W at most"),
    "wide_band": (_with(bandwidth_hz=49e6), "Hz of 5e+07 Hz: share what there is"),
    "odd_bits": (_with(bits_up=12), "bits_up 12: take 1 to 8, 16 or 32"),
    "no_bits_down": (_with(bits_down=0), "bits_down 0: take 1 to 8, 16 or 32"),
    "a_rate": (_with(rate_bits=0.5), "rate_bits 0.5, which only codec klt sends at"),
    "int8": (_with(precision="int8"), "precision 'int8': take float32, or name it in"),
    "deep_cut": (_with(cut=99), "cut 99: the model has"),
    "half_cut": (_with(cut=1.5), "cut 1.5: the model has"),
    "many_tokens": (_with(tokens=1000), "1000 tokens: take 1 to the model's 49"),
    "no_tokens": (_with(tokens=0), "0 tokens: take 1 to the model's 49"),
    "unranked": (_with(cut=0, tokens=4), "4 tokens at cut 0, where no block ranks them"),
    "a_stranger": (_a_stranger, "device 99, which could not take part in this round"),
    "both": (_both, "take part and left it out"),
    "nothing": (lambda now: None, "gave a NoneType: let it return RoundDecisions"),
}
globals().update({name: solve for name, (solve, _) in FAULTS.items()})
