"""Which samples a device trains on in each step of a round: by its seed alone, without torch."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cutlayer.seeds import numpy_rng


def draw_batches(
    seed: int,
    device: int,
    round: int,
    epochs: int,
    batch_size: int,
    samples: int,
    most: int | None,
    variants: int = 0,
) -> Iterator[NDArray[np.int64]]:
    """The samples of each batch, by number: in every epoch all of them in a new order.

    samples: how many the device has. most: how many of them an epoch uses at most; None: all.
    variants: versions of each sample, of which an epoch draws one; the number is then
    sample * variants + version. 0: samples have no versions.
    """
    for epoch in range(epochs):
        order = numpy_rng(seed, device, round, "batches", epoch)
        indices = order.permutation(samples)[:most]
        if variants:
            drawn = numpy_rng(seed, device, round, "variants", epoch)
            indices = indices * variants + drawn.integers(variants, size=len(indices))
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]
