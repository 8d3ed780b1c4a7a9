"""Numbers as integers modulo 2^32, so that the sum of many is exact whatever its order."""

import numpy as np
import numpy.typing as npt

from cutlayer.errors import RunError

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint32]

RANGE = 8.0
"""The largest magnitude of a number: far above any change that training makes to a weight."""


def scale_of(devices: int) -> float:
    """Steps per unit with which numbers of `devices` devices within RANGE add up without overflow.

    For eight devices a step is 3e-8, as fine as float32 is at 0.5.
    """
    return (2**31 - 1) // devices / RANGE


def to_words(values: Floats, devices: int) -> Words:
    """Values [n] as whole steps. Raises RunError for one beyond RANGE, or that is not finite."""
    if not (np.abs(values) <= RANGE).all():
        raise RunError(
            f"privacy.secure_sum: an adapter changed by more than {RANGE:g} in one weight, or is "
            "not finite: lower training.lr"
        )
    steps = np.rint(values * scale_of(devices)).astype(np.int64)
    return steps.astype(np.uint32)  # modulo 2^32: numpy wraps


def to_values(total: Words, devices: int) -> Floats:
    """The sum [n] as floats, of the words of at most `devices` devices."""
    return total.view(np.int32).astype(np.float64) / scale_of(devices)
