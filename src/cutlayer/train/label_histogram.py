"""What a device shares of its labels: how many samples of each class, with noise if asked."""

import numpy as np
import numpy.typing as npt

from cutlayer.seeds import numpy_rng

Floats = npt.NDArray[np.float64]


def histogram(counts: npt.ArrayLike, epsilon: float | None, seed: int, device: int) -> Floats:
    """The counts [C] that a device shares: exact (epsilon None) or with Laplace noise of 1/epsilon.

    epsilon-differentially private for data sets of which one has one sample more: then one count
    differs by 1, the sensitivity. (If a sample is exchanged for another, it is 2 epsilon.)
    Clipping at 0 afterwards costs no privacy. On a real network a device draws the noise itself,
    from a seed that never leaves it; each start of the device spends epsilon.
    """
    exact = np.asarray(counts, dtype=np.float64)
    if epsilon is None:
        return exact
    noise = numpy_rng(seed, device, "labels").laplace(scale=1 / epsilon, size=exact.shape)
    return np.maximum(exact + noise, 0.0)
