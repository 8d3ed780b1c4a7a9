"""Levels of one's own: a function of a job's that says where the values of a few bits lie."""

import importlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cutlayer.errors import FrameError, JobError

_MOST_BITS = 8


@lru_cache(maxsize=64)
def own_levels(name: str, bits: int) -> NDArray[np.float32]:
    """The 2^bits levels, ascending, that `package.module:FUNCTION` gives, in units of the RMS.

    Raises JobError where there is no such function, or it gives no such levels.
    """
    module, _, function = name.partition(":")
    try:
        own = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise JobError(f"quantizer.levels: cannot import {name!r} ({error})") from None
    if not callable(own):
        raise JobError(f"quantizer.levels: {name!r} is not a function")
    try:
        levels = np.asarray(own(bits), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise JobError(
            f"quantizer.levels: {name!r} gave no numbers ({error}): return 2**bits of them"
        ) from None
    if levels.shape != (2**bits,) or not _rise(levels):
        raise JobError(
            f"quantizer.levels: {name!r} gave {list(levels.shape)} numbers for {bits} bits: return "
            f"{2**bits} finite ones, each larger than the one before"
        )
    return levels


def known_levels(name: str) -> None:
    """Raise JobError where a quantiser's levels cannot be had, before anything is trained."""
    if ":" in name:
        for bits in range(1, _MOST_BITS + 1):
            own_levels(name, bits)


def pack_levels(name: str, bits: int) -> str | tuple[float, ...]:
    """Levels as a frame's header has them: by name, or one's own as numbers."""
    if ":" not in name:
        return name
    return tuple(own_levels(name, bits).tolist()) if bits <= _MOST_BITS else "uniform"


def unpack_levels(numbers: tuple[float, ...], bits: int) -> NDArray[np.float32]:
    """The levels of a header. Raises FrameError for any but 2^bits that rise."""
    with np.errstate(over="ignore"):
        levels = np.array(numbers, dtype=np.float32)
    if len(levels) != 2**bits or not _rise(levels):
        raise FrameError(
            f"the frame's header has {len(levels)} levels for {bits} bits, not {2**bits} finite "
            "ones that rise: have it sent again"
        )
    return levels


def _rise(levels: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(levels).all() and (np.diff(levels) > 0).all())
