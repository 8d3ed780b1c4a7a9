"""Arrays [M] of a solver's problem: checked, and of some of its devices only."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.radio_math import Floats
from cutlayer.errors import AllocationError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Problem = TypeVar("Problem", bound="DataclassInstance")


def device_array(name: str, value: npt.ArrayLike, M: int, *, zero: bool, inf: bool) -> Floats:
    """`value` as float64 [M], a scalar meaning all alike; AllocationError where it is not valid.

    zero, inf: whether 0 and infinity are allowed; negative values and NaN never are.
    """
    array = np.asarray(value, dtype=np.float64)
    if array.ndim > 1 or (array.ndim == 1 and len(array) != M):
        raise AllocationError(
            f"{name} has shape {array.shape}: give one value or one for each of {M} devices"
        )
    array = np.broadcast_to(array, (M,)).copy()
    good = (array >= 0) & (zero | (array > 0)) & (inf | (array < np.inf))
    if not good.all():
        m = int(np.argmin(good))
        want = ("0 or more" if zero else "above 0") + ("" if inf else " and finite")
        raise AllocationError(f"{name} of device {m} is {array[m]:g}: it must be {want}")
    return array


def positive(name: str, value: float) -> float:
    """`value` if it is positive and finite, else AllocationError."""
    if not 0 < value < np.inf:
        raise AllocationError(f"{name} is {value:g}: it must be above 0 and finite")
    return float(value)


def subset(problem: Problem, devices: npt.ArrayLike) -> Problem:
    """A problem dataclass with the named devices only: every array's first axis is indexed."""
    index = np.asarray(devices)
    chosen = {
        field.name: getattr(problem, field.name)[index]
        for field in fields(problem)
        if isinstance(getattr(problem, field.name), np.ndarray)
    }
    return replace(problem, **chosen)
