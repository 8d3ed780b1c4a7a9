"""Numbers as integers modulo 2^32, so that the sum of many is exact whatever its order."""

import numpy as np
import numpy.typing as npt

from cutlayer.errors import RunError

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint32]

RANGE = 8.0
"""No number may be larger than this: far beyond what training changes a weight of an adapter by."""


def scale_of(devices: int) -> float:
    """Steps to the unit at which so many numbers within RANGE add up without an overflow.

    Of eight devices a step is 3e-8: float32 has no finer one at 0.5.
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
    """The sum [n] of what `to_words` gave for at most so many devices."""
    return total.view(np.int32).astype(np.float64) / scale_of(devices)
