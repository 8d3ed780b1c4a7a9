"""How long vehicles of a trace really stay in coverage, beside what the models say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cutlayer.world.mobility import radial_stay_s, straight_stay_s
from cutlayer.world.traces import PositionTrace
from cutlayer.world.units import Array


@dataclass(frozen=True)
class Stays:
    """Stay times in seconds of vehicles seen in coverage, arrays [n].

    seen_s: until the vehicle really left coverage. radial_s: by ST-SFLora's (L - l) / v (arXiv
    2605.26120). straight_s: if the vehicle kept its heading and speed.
    """

    seen_s: Array
    radial_s: Array
    straight_s: Array


def compare_stays(
    trace: PositionTrace,
    coverage_m: float,
    every_s: float = 1.0,
    server_x_m: float = 0.0,
    server_y_m: float = 0.0,
) -> Stays:
    """Stay times of the vehicles in coverage, looked at every `every_s` seconds of the trace.

    Left out are vehicles at rest and those in coverage until their part of the trace ends.
    """
    begin, end = float(trace.track.time_s.min()), float(trace.track.time_s.max())
    times = np.arange(begin, end, every_s)
    motions = [trace.at(float(t)).seen_from(server_x_m, server_y_m) for t in times]
    present = np.stack([motion.present for motion in motions])
    distance = np.stack([np.hypot(motion.x_m, motion.y_m) for motion in motions])
    inside = present & (distance <= coverage_m)
    leaves = inside[:-1] & present[1:] & ~inside[1:]
    beyond = np.where(leaves, distance[1:] - distance[:-1], 1.0)
    crossing = times[:-1, None] + every_s * (coverage_m - distance[:-1]) / beyond
    # Going back in time: when each vehicle is next on the edge of coverage, NaN where unknown.
    left_at = np.full(inside.shape, np.nan)
    for index in range(len(times) - 2, -1, -1):
        later = np.where(inside[index + 1], left_at[index + 1], np.nan)
        left_at[index] = np.where(leaves[index], crossing[index], later)
    moves = np.stack([motion.speed_mps for motion in motions]) > 0
    known = inside & ~np.isnan(left_at) & moves
    radial = [
        radial_stay_s(d, m.speed_mps, coverage_m) for d, m in zip(distance, motions, strict=True)
    ]
    straight = [straight_stay_s(motion, coverage_m) for motion in motions]
    return Stays(
        seen_s=(left_at - times[:, None])[known],
        radial_s=np.stack(radial)[known],
        straight_s=np.stack(straight)[known],
    )
