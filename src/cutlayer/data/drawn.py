"""Shares of a fleet of any size: each device draws its samples by itself, when they are asked for.

Random numbers come from a counter, so that a device's are found without those of the others.
"""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from cutlayer.data.dataset import Indices
from cutlayer.seeds import derive

_WORDS = 4
"""Random numbers that one count of the generator gives."""


class DrawnShares(Sequence[Indices]):
    """The samples of each of `devices` devices: `size` of `samples`, uniform, with replacement.

    A share is sorted; others may hold its samples too. Nothing is kept for a device. size: samples
    of each.
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
        """Samples of each device."""
        return (self.size,) * self._devices

    def draw(self, first: int, number: int) -> Indices:
        """The samples of `number` devices from `first` on, [number, size], not sorted."""
        counts = -(-self.size // _WORDS)
        source = np.random.Philox(key=self._key)
        source.advance(first * counts)
        drawn = np.random.Generator(source).random((number, counts * _WORDS))[:, : self.size]
        found: Indices = (drawn * self._samples).astype(np.int64)
        return found
