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
from cutlayer.seeds import numpy_rng
from cutlayer.settings.generated import Mix

Floats = npt.NDArray[np.float64]


def histogram(counts: npt.ArrayLike, epsilon: float | None, seed: int, device: int) -> Floats:
    """What a device shares of its counts [C]: themselves, or with Laplace noise of 1/epsilon.

    epsilon-differentially private for data sets that differ by one sample more or less: one count
    then moves by 1, the sensitivity. (For one sample exchanged for another it is 2 epsilon.)
    Clipping at 0 afterwards costs no privacy. On a real network the noise of a device's own data
    is drawn on the device from a seed that stays there; each start of the device spends epsilon.
    """
    exact = np.asarray(counts, dtype=np.float64)
    if epsilon is None:
        return exact
    noise = numpy_rng(seed, device, "labels").laplace(scale=1 / epsilon, size=exact.shape)
    return np.maximum(exact + noise, 0.0)


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
