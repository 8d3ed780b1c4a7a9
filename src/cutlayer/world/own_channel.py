"""Path loss and fading by functions of one's own, which a job names by `module:FUNCTION`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cutlayer.errors import JobError
from cutlayer.own_code import load_own_function
from cutlayer.world.units import Array, array

OwnLoss = Callable[[Array, float], object]
"""Takes distances on the ground in metres [M] and the carrier in Hz; returns losses in dB [M]."""

OwnFading = Callable[[np.random.Generator, int], object]
"""Takes a random generator and M; returns powers [M] of 0 or more whose mean over draws is 1."""


def own_loss_db(name: str, distance_m: Array, carrier_hz: float) -> Array:
    """Losses [M] in dB by the function that `world.path_loss` names. Raises JobError."""
    own: OwnLoss = load_own_function("world.path_loss", name)
    found = _numbers("world.path_loss", name, own(distance_m, carrier_hz), len(distance_m))
    if (found < 0).any():
        raise JobError(
            f"world.path_loss: {name!r} gave {found.min():g} dB, but no link amplifies: return "
            "sent over received power, 0 dB or more"
        )
    return found


def own_fading(name: str, rng: np.random.Generator, devices: int) -> Array:
    """Powers [M] of one round by the function that `world.fading` names. Raises JobError."""
    own: OwnFading = load_own_function("world.fading", name)
    found = _numbers("world.fading", name, own(rng, devices), devices)
    if (found < 0).any():
        raise JobError(
            f"world.fading: {name!r} gave {found.min():g}, and power is not negative: return a "
            "ratio of powers (not dB) whose mean is 1"
        )
    return found


def _numbers(setting: str, name: str, given: object, devices: int) -> Array:
    """What a function returned, if that is one finite number for each device."""
    try:
        found = array(given)  # type: ignore[arg-type]  # what is no number is refused here
    except (TypeError, ValueError):
        raise JobError(
            f"{setting}: {name!r} gave {repr(given)[:60]}, which is no list of numbers: return one "
            "finite number for each device"
        ) from None
    if found.shape != (devices,) or not np.isfinite(found).all():
        raise JobError(
            f"{setting}: {name!r} gave {list(found.shape)} numbers for {devices} devices: return "
            "one finite number for each"
        )
    return found
