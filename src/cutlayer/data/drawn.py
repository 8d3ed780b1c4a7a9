"""Shares of a fleet of any size: each device draws its samples by itself, when they are asked for.

Random numbers come from a counter, so that a device's are found without those of the others.
"""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from cutlayer.data.dataset import Indices
from cutlayer.seeds import derive

_WORDS = 4
"""Random numbers that one count of the generator gives."""

_CHUNK = 2**20


class DrawnShares(Sequence[Indices]):
    """The samples of each of `devices` devices: `size` of `samples`, uniform, with replacement.

    A share is sorted; others may hold its samples too. Nothing is kept for a device.
    """

    def __init__(self, samples: int, devices: int, size: int, seed: int) -> None:
        self._samples, self._devices, self._size = samples, devices, size
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
        return np.sort(self._draw(index, 1)[0])

    def __iter__(self) -> Iterator[Indices]:
        return (self[device] for device in range(self._devices))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each device."""
        return (self._size,) * self._devices

    def label_counts(self, labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.int32]:
        """How many samples of each class each device holds, [M, classes] of int32."""
        counts = np.empty((self._devices, classes), dtype=np.int32)
        step = max(1, _CHUNK // self._size)
        for first in range(0, self._devices, step):
            number = min(step, self._devices - first)
            held = labels[self._draw(first, number)] + classes * np.arange(number)[:, None]
            counted = np.bincount(held.ravel(), minlength=number * classes)
            counts[first : first + number] = counted.reshape(number, classes)
        return counts

    def _draw(self, first: int, number: int) -> Indices:
        """The samples of `number` devices from `first` on, [number, size]."""
        counts = -(-self._size // _WORDS)
        source = np.random.Philox(key=self._key)
        source.advance(first * counts)
        drawn = np.random.Generator(source).random((number, counts * _WORDS))[:, : self._size]
        found: Indices = (drawn * self._samples).astype(np.int64)
        return found
