"""ASFL's rule for the cut: the faster the link, the earlier the cut (arXiv 2406.15804)."""

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.device_arrays import device_numbers
from cutlayer.allocate.radio_math import Ints
from cutlayer.errors import AllocationError

# Of the nine split points of the paper's ResNet-18.
PAPER_CUTS = (8, 6, 4, 2)


def cut_by_rate(
    rate_bps: npt.ArrayLike,
    thresholds_bps: npt.ArrayLike,
    cuts: npt.ArrayLike = PAPER_CUTS,
    numbers: npt.ArrayLike = (),
) -> Ints:
    """The cut [M] of each device by its link rate in bit/s.

    rate_bps: [M]. thresholds_bps: n rates, rising. cuts: n numbers of blocks.
    Thresholds R_1 <= ... <= R_n go with n cuts, latest cut first: a rate in [R_i, R_(i+1))
    takes cut i, and a rate of R_n or more takes the last cut. A rate below R_1 takes the first cut
    as well: inferred by us, since the paper names no other. Its stay time decides if it is in time.
    numbers: [M] the numbers by which errors name devices; by default 0, 1, 2, ...
    """
    rates = np.asarray(rate_bps, dtype=np.float64)
    limits = np.asarray(thresholds_bps, dtype=np.float64)
    choices = np.asarray(cuts, dtype=np.int64)
    if limits.ndim != 1 or limits.shape != choices.shape or not len(limits):
        raise AllocationError(
            f"{limits.size} thresholds do not go with {choices.size} cuts: give one for each"
        )
    if not (np.isfinite(limits).all() and (np.diff(limits) >= 0).all()):
        raise AllocationError(f"thresholds {limits.tolist()} do not rise: give R1 <= R2 <= ...")
    if np.isnan(rates).any():
        number = device_numbers(numbers, rates.size)[np.argmax(np.isnan(rates))]
        raise AllocationError(f"the rate of device {number} is NaN")
    index = np.searchsorted(limits, rates, side="right") - 1
    chosen: Ints = choices[np.maximum(index, 0)]
    return chosen
