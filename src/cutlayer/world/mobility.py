"""How devices move: standing still, drawn anew each round, along a highway; and time to leave."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from cutlayer.seeds import numpy_rng
from cutlayer.settings.places import FleetSettings, MobilitySettings
from cutlayer.world.draws import drawn_for, uniform
from cutlayer.world.fleet import Fleet, place
from cutlayer.world.units import Array, Flags, Indices, array


@dataclass(frozen=True)
class Motion:
    """Where M devices are and how they move, at one time; arrays [M].

    present: False for a vehicle that has not yet entered the trace or has left it.
    """

    x_m: Array
    y_m: Array
    vx_mps: Array
    vy_mps: Array
    speed_mps: Array
    present: Flags

    def take(self, devices: Indices) -> Motion:
        """The devices at `devices`, in that order."""
        return Motion(*(getattr(self, field.name)[devices] for field in fields(self)))

    def seen_from(self, x_m: float, y_m: float) -> Motion:
        """The same motion with the server at (x_m, y_m) as the origin."""
        return replace(self, x_m=self.x_m - x_m, y_m=self.y_m - y_m)


def standing(fleet: Fleet) -> Motion:
    """The fleet at rest in its places; its speeds are kept, without a direction."""
    still = np.zeros(fleet.devices)
    return Motion(fleet.x_m, fleet.y_m, still, still, fleet.speed_mps, _all(fleet.devices))


def redrawn(
    places: FleetSettings, mobility: MobilitySettings, devices: Indices, seed: int, round: int
) -> Motion:
    """New places, speeds and headings of some devices for a round."""
    x_m, y_m = place(places, devices, seed, round, "place")
    speed = draw_speeds(mobility, devices, seed, round, "speed")
    angle = 2 * np.pi * drawn_for(devices, numpy_rng(seed, round, "heading"), uniform)
    there = _all(len(devices))
    return Motion(x_m, y_m, speed * np.cos(angle), speed * np.sin(angle), speed, there)


@dataclass(frozen=True)
class Highway:
    """A straight road along x past the server at (0, 0); arrays [M].

    A vehicle keeps lane and speed; at one end of the road it re-enters at the other, so that the
    same number is always on the road, and enters and leaves the coverage disc on the way.
    """

    length_m: float
    start_x_m: Array
    y_m: Array
    vx_mps: Array

    def at(self, time_s: float) -> Motion:
        """Places at `time_s`."""
        half = self.length_m / 2
        x_m = np.mod(self.start_x_m + self.vx_mps * time_s + half, self.length_m) - half
        still = np.zeros(len(x_m))
        return Motion(x_m, self.y_m, self.vx_mps, still, np.abs(self.vx_mps), _all(len(x_m)))


def make_highway(mobility: MobilitySettings, devices: Indices, seed: int) -> Highway:
    """The vehicles `devices` of a fleet that is spread uniformly over the road and its lanes.

    Vehicles on the first half of the lanes drive towards +x, the others towards -x.
    """
    lane = drawn_for(
        devices,
        numpy_rng(seed, "highway", "lane"),
        lambda rng, count: array(rng.integers(0, mobility.lanes, count)),
    )
    part = drawn_for(devices, numpy_rng(seed, "highway", "place"), uniform) - 0.5
    speed = draw_speeds(mobility, devices, seed, "highway", "speed")
    return Highway(
        length_m=mobility.road_m,
        start_x_m=part * mobility.road_m,
        y_m=array(mobility.road_offset_m + lane * mobility.lane_width_m),
        vx_mps=np.where(lane < (mobility.lanes + 1) // 2, speed, -speed),
    )


def draw_speeds(
    mobility: MobilitySettings, devices: Indices, seed: int, *purpose: int | str
) -> Array:
    """Speeds [m] in m/s from the Gaussian truncated to [min, max], by its inverse distribution."""
    mean, std = mobility.speed_mean_mps, mobility.speed_std_mps
    low, high = mobility.speed_min_mps, mobility.speed_max_mps
    if std == 0 or low == high:
        return np.full(len(devices), mean)
    part = drawn_for(devices, numpy_rng(seed, *purpose), uniform)
    below, grid = _speeds(mean, std, low, high)
    return np.interp(part, below, grid)


@lru_cache(maxsize=8)
def _speeds(mean: float, std: float, low: float, high: float) -> tuple[Array, Array]:
    """The distribution of speeds on a grid: the share of vehicles below a speed, and that speed."""
    # Less than one draw in 1e18 lies beyond nine deviations: a wider grid would only be coarser.
    grid = np.linspace(max(low, mean - 9 * std), min(high, mean + 9 * std), 8193)
    below = np.array([math.erf((v - mean) / (std * math.sqrt(2))) for v in grid])
    return (below - below[0]) / (below[-1] - below[0]), grid


def radial_stay_s(distance_m: npt.ArrayLike, speed_mps: npt.ArrayLike, coverage_m: float) -> Array:
    """(L - l) / v [M]: ST-SFLora's time left in coverage (arXiv 2605.26120); infinite at rest.

    The shortest time in which a device can leave, whatever its heading; 0 outside.
    """
    left = coverage_m - array(distance_m)
    return np.where(left < 0, 0.0, _divide(left, array(speed_mps)))


def straight_stay_s(motion: Motion, coverage_m: float) -> Array:
    """Seconds until a device that keeps its heading leaves [M]: |p + v t| = L; 0 outside."""
    speed2 = motion.vx_mps**2 + motion.vy_mps**2
    outward = motion.x_m * motion.vx_mps + motion.y_m * motion.vy_mps
    room = coverage_m**2 - motion.x_m**2 - motion.y_m**2
    inside = np.maximum(room, 0.0)
    stay = _divide(np.sqrt(outward**2 + speed2 * inside) - outward, speed2)
    return np.where(room < 0, 0.0, stay)


def _divide(length: Array, speed: Array) -> Array:
    """length / speed, infinite where the speed is 0."""
    rest = np.full(np.broadcast(length, speed).shape, np.inf)
    np.divide(length, speed, out=rest, where=speed > 0)
    return rest


def _all(devices: int) -> Flags:
    return np.ones(devices, dtype=bool)
