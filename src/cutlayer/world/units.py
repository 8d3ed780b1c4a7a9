"""Array types of the world, and decibels as plain ratios."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

LIGHT_MPS = 299_792_458.0
"""Speed of light in vacuum, m/s."""


def array(values: npt.ArrayLike) -> Array:
    """The values as a float64 array; a float64 array is not copied."""
    return np.asarray(values, dtype=np.float64)


def ratio(decibels: npt.ArrayLike) -> Array:
    """The plain ratio of a figure in decibels: 10^(dB/10)."""
    return array(10.0 ** (array(decibels) / 10.0))
