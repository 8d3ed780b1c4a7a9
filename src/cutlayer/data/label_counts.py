"""How many samples of each class each device holds: counted for the devices that are asked for."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cutlayer.data.dataset import Indices
from cutlayer.data.drawn import DrawnShares

_CHUNK = 2**20
"""How many samples are counted at a time."""


class LabelCounts:
    """Counts samples by device and class. In memory are only the counts given to `note`.

    labels: of all samples [n]. shares: the indices of the samples of each device [M].
    """

    def __init__(self, labels: npt.ArrayLike, shares: Sequence[Indices], classes: int) -> None:
        self._labels = np.asarray(labels, dtype=np.int64)
        self._shares = shares
        self._noted: dict[int, Indices] = {}
        self.classes = classes

    @property
    def devices(self) -> int:
        """How many devices there are (M)."""
        return len(self._shares)

    def of(self, devices: Sequence[int]) -> Indices:
        """The counts of some devices, in their order [m, C]."""
        shares, found = self._shares, np.zeros((len(devices), self.classes), dtype=np.int64)
        for place, device in enumerate(devices):
            noted = self._noted.get(device)
            found[place] = self._count(shares[device]) if noted is None else noted
        return found

    def first(self, most: int) -> Indices:
        """The counts of the first `most` devices, or of all if they are fewer [m, C]."""
        most = min(most, self.devices)
        if not isinstance(self._shares, DrawnShares):
            return self.of(range(most))
        found = np.concatenate([np.zeros((0, self.classes), np.int64), *self._drawn(most)])
        for device, noted in self._noted.items():
            if device < most:
                found[device] = noted
        return found

    def note(self, device: int, counts: npt.ArrayLike) -> None:
        """Use `counts` [C] for a device from now on, whatever its share says."""
        self._noted[device] = np.asarray(counts, dtype=np.int64)
        for name in ("total", "samples"):
            self.__dict__.pop(name, None)

    @cached_property
    def total(self) -> Indices:
        """The samples of each class of all devices together [C]."""
        if isinstance(self._shares, DrawnShares):
            total = sum(
                (one.sum(axis=0) for one in self._drawn(self.devices)),
                np.zeros(self.classes, dtype=np.int64),
            )
        else:
            total = np.zeros(self.classes, dtype=np.int64)
            for share in self._shares:
                total += self._count(share)
        for device, noted in self._noted.items():
            total += noted - self._count(self._shares[device])
        return total

    @cached_property
    def samples(self) -> int:
        """The samples of all devices together."""
        if isinstance(self._shares, DrawnShares) and not self._noted:
            return len(self._shares) * self._shares.size
        return int(self.total.sum())

    def _count(self, share: Indices) -> Indices:
        return np.bincount(self._labels[share], minlength=self.classes)

    def _drawn(self, devices: int) -> Iterator[Indices]:
        """The counts [m, C] of the first `devices` devices, some of them at a time."""
        assert isinstance(self._shares, DrawnShares)
        step = max(1, _CHUNK // self._shares.size)
        for first in range(0, devices, step):
            number = min(step, devices - first)
            held = self._labels[self._shares.draw(first, number)]
            places = held + self.classes * np.arange(number)[:, None]
            counted = np.bincount(places.ravel(), minlength=number * self.classes)
            yield counted.reshape(number, self.classes)
