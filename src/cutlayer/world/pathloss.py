"""Path loss in decibels: log-distance, and TR 38.901's urban street canyon and macro cell.

3GPP TR 38.901 (V16.1): clause 7.4.1, table 7.4.1-1 for loss, breakpoint and shadow fading; clause
7.4.2, table 7.4.2-1 for the probability of line of sight. Outdoor devices up to 13 m high, for
which UMa's effective environment height is always 1 m. Distances in metres, carrier in hertz.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cutlayer.settings.world import Scenario
from cutlayer.world.units import LIGHT_MPS, Array, Flags, array

MIN_DISTANCE_M = 10.0
"""TR 38.901 holds from 10 m on; a nearer device counts as 10 m away."""

_STANDARD_LIGHT_MPS = 3.0e8  # note 1 of table 7.4.1-1
_ENVIRONMENT_M = 1.0  # h_E


class _Table(NamedTuple):
    """Coefficients of table 7.4.1-1 (d in m, f in GHz)."""

    near: tuple[float, float]  # PL1 = near[0] + near[1] log10 d + 20 log10 f
    bend: float  # PL2 = near[0] + 40 log10 d + 20 log10 f - bend log10(d_BP'^2 + (h_BS - h_UT)^2)
    blocked: tuple[float, float, float, float]  # b0 + b1 log10 d + b2 log10 f - b3 (h_UT - 1.5)
    shadow_los_db: float
    shadow_nlos_db: float
    height_m: float
    decay_m: float  # of the line-of-sight probability


_TABLES: dict[str, _Table] = {
    "umi": _Table((32.4, 21.0), 9.5, (22.4, 35.3, 21.3, 0.3), 4.0, 7.82, 10.0, 36.0),
    "uma": _Table((28.0, 22.0), 9.0, (13.54, 39.08, 20.0, 0.6), 4.0, 6.0, 25.0, 63.0),
}


def free_space_db(distance_m: npt.ArrayLike, carrier_hz: float) -> Array:
    """Friis: 20 log10(4 pi d f / c)."""
    ratio = 4 * np.pi * array(distance_m) * carrier_hz / LIGHT_MPS
    return array(20 * np.log10(ratio))


def log_distance_db(
    distance_m: npt.ArrayLike,
    carrier_hz: float,
    exponent: float,
    reference_m: float = 1.0,
    reference_loss_db: float | None = None,
) -> Array:
    """L(d0) + 10 n log10(d / d0); below d0 the loss is that of d0.

    reference_loss_db: L(d0); None is free space at the carrier.
    """
    if reference_loss_db is None:
        reference_loss_db = float(free_space_db(reference_m, carrier_hz))
    relative = array(distance_m) / reference_m
    return array(reference_loss_db + 10 * exponent * np.log10(np.maximum(relative, 1.0)))


def server_height_m(scenario: Scenario) -> float:
    """The standard's height of the base station."""
    return _TABLES[scenario].height_m


def breakpoint_m(carrier_hz: float, server_m: float, device_m: float) -> float:
    """d_BP' = 4 (h_BS - 1)(h_UT - 1) f / c, note 1 of table 7.4.1-1."""
    product = (server_m - _ENVIRONMENT_M) * (device_m - _ENVIRONMENT_M)
    return 4 * product * carrier_hz / _STANDARD_LIGHT_MPS


def urban_db(
    scenario: Scenario,
    distance_m: npt.ArrayLike,
    line_of_sight: npt.ArrayLike,
    carrier_hz: float,
    server_m: float | None = None,
    device_m: float = 1.5,
) -> Array:
    """TR 38.901 path loss without shadowing, table 7.4.1-1.

    distance_m: on the ground (d_2D), of shape [M]. line_of_sight: flags [M].
    """
    table = _TABLES[scenario]
    height = table.height_m if server_m is None else server_m
    ground = np.maximum(array(distance_m), MIN_DISTANCE_M)
    log_d = np.log10(np.hypot(ground, height - device_m))  # d_3D
    log_f = np.log10(carrier_hz / 1e9)
    bend = breakpoint_m(carrier_hz, height, device_m)
    near = table.near[0] + table.near[1] * log_d + 20 * log_f
    beyond = (
        table.near[0]
        + 40 * log_d
        + 20 * log_f
        - table.bend * np.log10(bend**2 + (height - device_m) ** 2)
    )
    clear = np.where(ground <= bend, near, beyond)
    b0, b1, b2, b3 = table.blocked
    blocked = np.maximum(clear, b0 + b1 * log_d + b2 * log_f - b3 * (device_m - 1.5))
    return array(np.where(np.asarray(line_of_sight), clear, blocked))


def line_of_sight_probability(scenario: Scenario, distance_m: npt.ArrayLike) -> Array:
    """Table 7.4.2-1, for outdoor devices up to 13 m high."""
    ground = np.maximum(array(distance_m), 18.0)
    near = 18.0 / ground
    return array(near + np.exp(-ground / _TABLES[scenario].decay_m) * (1 - near))


def shadowing_std_db(scenario: Scenario, line_of_sight: Flags) -> Array:
    """sigma_SF of table 7.4.1-1 [M]."""
    table = _TABLES[scenario]
    return np.where(line_of_sight, table.shadow_los_db, table.shadow_nlos_db)
