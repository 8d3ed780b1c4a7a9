"""Arrays [M] of a solver's problem: checked, and of some of its devices only.

A solver knows devices by their place in its arrays. Its sentences name them by the problem's
`numbers`, which planning gives as the devices' own in their fleet; who calls a solver without
numbers reads places, counted from 0.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.radio_math import Floats, Ints
from cutlayer.errors import AllocationError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Problem = TypeVar("Problem", bound="DataclassInstance")


def no_numbers() -> Ints:
    """A problem's `numbers` where none are given: devices are called by their places."""
    return np.zeros(0, dtype=np.int64)


def device_numbers(numbers: npt.ArrayLike, M: int) -> Ints:
    """The numbers [M] by which sentences name devices; their places where none are given."""
    found = np.asarray(numbers, dtype=np.int64)
    if not found.size:
        return np.arange(M)
    if found.shape != (M,):
        raise AllocationError(
            f"numbers has shape {found.shape}: give the number of each of {M} devices, or none"
        )
    return found


def device_array(
    name: str, value: npt.ArrayLike, numbers: Ints, *, zero: bool, inf: bool
) -> Floats:
    """`value` as float64 [M], a scalar meaning all alike; AllocationError where it is not valid.

    numbers: [M], by which the error names a device. zero, inf: whether 0 and infinity are allowed;
    negative values and NaN never are.
    """
    array, M = np.asarray(value, dtype=np.float64), len(numbers)
    if array.ndim > 1 or (array.ndim == 1 and len(array) != M):
        raise AllocationError(
            f"{name} has shape {array.shape}: give one value or one for each of {M} devices"
        )
    array = np.broadcast_to(array, (M,)).copy()
    good = (array >= 0) & (zero | (array > 0)) & (inf | (array < np.inf))
    if not good.all():
        m = int(np.argmin(good))
        want = ("0 or more" if zero else "above 0") + ("" if inf else " and finite")
        raise AllocationError(f"{name} of device {numbers[m]} is {array[m]:g}: it must be {want}")
    return array


def positive(name: str, value: float) -> float:
    """`value` if it is positive and finite, else AllocationError."""
    if not 0 < value < np.inf:
        raise AllocationError(f"{name} is {value:g}: it must be above 0 and finite")
    return float(value)


def subset(problem: Problem, devices: npt.ArrayLike) -> Problem:
    """The problem of some devices only: the first axis of its arrays is indexed by `devices`."""
    index = np.asarray(devices)
    chosen = {
        field.name: getattr(problem, field.name)[index]
        for field in fields(problem)
        if isinstance(getattr(problem, field.name), np.ndarray)
    }
    return replace(problem, **chosen)
