"""Label sharing: devices send how many samples of each class they hold, with noise if the job asks.

In GenFL and GenFV (arXiv 2503.20166, 2503.19676) devices share labels before images are generated;
how many images of each class are drawn was inferred by us. A device sends its histogram once in a
run; like other control messages of some tens of bytes it is not counted as traffic.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.genfv import emd, mix
from cutlayer.data.dataset import Indices, largest_remainder
from cutlayer.data.label_counts import LabelCounts
from cutlayer.settings.generated import Mix
from cutlayer.train.label_histogram import histogram

Floats = npt.NDArray[np.float64]

_CHUNK = 4096
"""How many devices' histograms are added up at a time."""


class SharedLabels:
    """What the server knows of the devices' labels: histograms by class, noise included.

    counts: what devices hold. epsilon, seed: of the noise (see `histogram`).
    """

    def __init__(self, counts: LabelCounts, epsilon: float | None = None, seed: int = 0) -> None:
        self._counts, self._epsilon, self._seed = counts, epsilon, seed
        self._told: dict[int, Floats] = {}

    def of(self, devices: Sequence[int]) -> Floats:
        """The histograms of some devices, in their order [m, C]."""
        found = self._counts.of(devices).astype(np.float64)
        for place, device in enumerate(devices):
            told = self._told.get(device)
            if told is None:
                told = histogram(found[place], self._epsilon, self._seed, device)
            found[place] = told
        return found

    def tell(self, device: int, labels: npt.ArrayLike) -> None:
        """Record that a device shared the histogram `labels` [C]."""
        self._told[device] = np.asarray(labels, dtype=np.float64)
        self.__dict__.pop("total", None)

    @cached_property
    def total(self) -> Floats:
        """The histogram of the whole fleet [C]."""
        if self._epsilon is None and not self._told:
            return self._counts.total.astype(np.float64)
        total = np.zeros(self._counts.classes)
        for first in range(0, self._counts.devices, _CHUNK):
            some = range(first, min(first + _CHUNK, self._counts.devices))
            total += self.of(some).sum(axis=0)
        return total

    def distances(self, devices: Sequence[int]) -> Floats:
        """Earth mover's distance EMD_n of each device's labels from those of the whole fleet."""
        return emd(self.of(devices), self.total)

    def wanted(self, devices: Sequence[int], kind: Mix) -> Floats:
        """The shares [C] in which a round of `devices` needs generated images.

        missing: b_y in proportion to max(0, p_g(y) - p_sel(y)), the classes of which the round's
        devices hold too little; inferred by us. whole: p_g, the mix of the whole fleet. If the
        round's devices hold just that mix, missing gives it too.
        """
        whole = mix(self.total)
        if kind == "whole":
            return whole
        missing = np.maximum(whole - mix(self.of(devices).sum(axis=0)), 0.0)
        return mix(missing) if missing.sum() > 1e-9 else whole

    def by_class(self, devices: Sequence[int], kind: Mix, amount: int) -> Indices:
        """`amount` images by class [C], in those shares (largest remainders)."""
        return largest_remainder(self.wanted(devices, kind), amount)
