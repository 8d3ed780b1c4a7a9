"""Random numbers for some devices of a fleet, the same that a draw for the whole fleet gives."""

from collections.abc import Callable

import numpy as np

from cutlayer.world.units import Array, Indices

CHUNK = 2**16
"""Devices drawn at a time, so that memory does not grow with the fleet."""

Draw = Callable[[np.random.Generator, int], Array]
"""Draws a row of numbers for each of so many devices, from where the generator stands."""


def drawn_for(devices: Indices, rng: np.random.Generator, draw: Draw) -> Array:
    """The rows [m, ...] of `devices` [m], in their order, out of what `draw` gives for a fleet.

    The numbers of devices before them are drawn and skipped, which takes milliseconds for a
    million devices.
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
    """A number in [0, 1) for each of `count` devices."""
    return rng.random(count)
