"""Random numbers of some devices of a fleet: those that a draw for all of them would give."""

from collections.abc import Callable

import numpy as np

from cutlayer.world.units import Array, Indices

CHUNK = 2**16
"""Devices drawn at a time: what is held does not grow with the fleet."""

Draw = Callable[[np.random.Generator, int], Array]
"""Numbers of so many devices, a row each, that go on where the generator stands."""


def drawn_for(devices: Indices, rng: np.random.Generator, draw: Draw) -> Array:
    """The rows of `devices` [m] in what `draw` gives for a fleet, in their order.

    The numbers of devices before them are drawn and passed over, which takes milliseconds a
    million.
    """
    if not len(devices):
        return draw(rng, 0)
    last, found = int(devices.max()), None
    for first in range(0, last + 1, CHUNK):
        some = draw(rng, min(CHUNK, last + 1 - first))
        if found is None:
            found = np.empty((len(devices), *some.shape[1:]), dtype=some.dtype)
        here = (devices >= first) & (devices < first + CHUNK)
        found[here] = some[devices[here] - first]
    assert found is not None
    return found


def uniform(rng: np.random.Generator, count: int) -> Array:
    """Numbers in [0, 1), one a device."""
    return rng.random(count)
