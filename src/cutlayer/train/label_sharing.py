"""Label sharing: devices send how many samples of each class they hold, with noise if the job asks.

GenFL and GenFV (arXiv 2503.20166, 2503.19676) share labels before anything is generated; how many
images of which class are drawn was inferred by us. A histogram is sent once in a run; like other
control messages, tens of bytes each, it is not counted as traffic.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.genfv import emd, mix
from cutlayer.data.dataset import Indices, largest_remainder
from cutlayer.settings.generated import Mix
from cutlayer.train.label_histogram import histogram

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SharedLabels:
    """What the server knows of the devices' labels: histograms [M, C], noise included."""

    counts: Floats

    def distances(self, devices: Sequence[int]) -> Floats:
        """Earth mover's distance EMD_n of each device's labels from those of the whole fleet."""
        return emd(self.counts[list(devices)], self.counts.sum(axis=0))

    def wanted(self, devices: Sequence[int], kind: Mix) -> Floats:
        """The shares [C] in which a round of `devices` needs generated images.

        missing: b_y in proportion to max(0, p_g(y) - p_sel(y)), what the round's devices hold too
        little of, which was inferred by us; whole: p_g, the mix of the whole fleet. A round that
        holds the fleet's own mix misses nothing, and gets that mix.
        """
        whole = mix(self.counts.sum(axis=0))
        if kind == "whole":
            return whole
        missing = np.maximum(whole - mix(self.counts[list(devices)].sum(axis=0)), 0.0)
        return mix(missing) if missing.sum() > 1e-9 else whole

    def by_class(self, devices: Sequence[int], kind: Mix, amount: int) -> Indices:
        """`amount` images by class [C], in those shares (largest remainders)."""
        return largest_remainder(self.wanted(devices, kind), amount)


def share(counts: npt.NDArray[np.int64], epsilon: float | None, seed: int) -> SharedLabels:
    """All devices' histograms, from their counts [M, C]."""
    if epsilon is None:
        return SharedLabels(counts.astype(np.float64))
    sent = [histogram(mine, epsilon, seed, device) for device, mine in enumerate(counts)]
    return SharedLabels(np.stack(sent))
