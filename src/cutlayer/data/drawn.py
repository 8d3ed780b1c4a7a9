"""The samples of each device of a large fleet: drawn for a device only when they are asked for.

Random numbers come from a counter, so a device's numbers are found without drawing the others'.
"""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from cutlayer.data.dataset import Indices
from cutlayer.seeds import derive

_WORDS = 4
"""How many random numbers the generator gives for each step of its counter."""


class DrawnShares(Sequence[Indices]):
    """The indices [size] of the samples of each of `devices` devices.

    They are drawn uniformly, with replacement, from 0 to samples - 1, and sorted; devices may share
    samples. Nothing is kept in memory for a device.
    """

    def __init__(self, samples: int, devices: int, size: int, seed: int) -> None:
        self._samples, self._devices, self.size = samples, devices, size
        self._key = derive(seed, "partition", "drawn")

    def __len__(self) -> int:
        return self._devices

    @overload
    def __getitem__(self, index: int) -> Indices: ...
    @overload
    def __getitem__(self, index: slice) -> list[Indices]: ...
    def __getitem__(self, index: int | slice) -> Indices | list[Indices]:
        if isinstance(index, slice):
            return [self[device] for device in range(*index.indices(self._devices))]
        if not 0 <= index < self._devices:
            raise IndexError(index)
        return np.sort(self.draw(index, 1)[0])

    def __iter__(self) -> Iterator[Indices]:
        return (self[device] for device in range(self._devices))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of samples of each device."""
        return (self.size,) * self._devices

    def draw(self, first: int, number: int) -> Indices:
        """The samples of `number` devices from `first` on, [number, size], not sorted."""
        counts = -(-self.size // _WORDS)
        source = np.random.Philox(key=self._key)
        source.advance(first * counts)
        drawn = np.random.Generator(source).random((number, counts * _WORDS))[:, : self.size]
        found: Indices = (drawn * self._samples).astype(np.int64)
        return found
