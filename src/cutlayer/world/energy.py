"""Seconds and joules of computing and sending on a device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cutlayer.settings.world import EnergySettings
from cutlayer.world.fleet import Fleet
from cutlayer.world.units import Array, array


def compute_s(flops: npt.ArrayLike, fleet: Fleet) -> Array:
    """T = FLOPs / (f C D) [M], ST-SFLora's T_F with FLOPs = B gamma_F (arXiv 2605.26120)."""
    return array(flops) / fleet.flops


def cycles(flops: npt.ArrayLike, fleet: Fleet) -> Array:
    """Clock ticks that pass while a device computes [M]: FLOPs / (C D), as C cores share them."""
    return array(flops) / (fleet.cores * fleet.flops_per_cycle)


def compute_j(flops: npt.ArrayLike, fleet: Fleet) -> Array:
    """E = kappa * cycles * f^2 [M], the usual model of a processor; inferred by us.

    Ticks are counted once for all cores, so kappa is the whole processor's and kappa f^3 its power.
    """
    return fleet.energy_coefficient * cycles(flops, fleet) * fleet.clock_hz**2


def transmit_j(power_w: npt.ArrayLike, time_s: npt.ArrayLike) -> Array:
    """E = p T [M]."""
    return array(power_w) * array(time_s)


def round_j(
    fleet: Fleet,
    energy: EnergySettings,
    power_w: npt.ArrayLike,
    sending_s: npt.ArrayLike,
    forward_flops: npt.ArrayLike,
    backward_flops: npt.ArrayLike = 0.0,
) -> Array:
    """Joules of each device [M] in a round, for what the settings `energy` count.

    power_w, sending_s: of the uplink, adapters included. forward_flops, backward_flops: FLOPs of
    all steps of the device.
    """
    total = np.zeros(fleet.devices)
    if energy.transmit:
        total += transmit_j(power_w, sending_s)
    if energy.forward:
        total += compute_j(forward_flops, fleet)
    if energy.backward:
        total += compute_j(backward_flops, fleet)
    return total
