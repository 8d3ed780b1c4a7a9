"""Quantiser levels given by a user's function, which the job names by `module:FUNCTION`."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cutlayer.errors import FrameError, JobError
from cutlayer.own_code import load_own_function

_MOST_BITS = 8


def own_levels(name: str, bits: int, setting: str = "levels") -> NDArray[np.float32]:
    """The 2^bits levels, ascending, that `package.module:FUNCTION` gives, in units of the RMS.

    setting: the job's setting, for errors. Raises JobError if there is no such function, or it does
    not give such levels.
    """
    return _levels_of(load_own_function(setting, name), name, bits, setting)


@lru_cache(maxsize=64)
def _levels_of(
    own: Callable[[int], object], name: str, bits: int, setting: str
) -> NDArray[np.float32]:
    try:
        levels = np.asarray(own(bits), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise JobError(
            f"{setting}: {name!r} gave no numbers ({error}): return 2**bits numbers"
        ) from None
    if levels.shape != (2**bits,) or not _rise(levels):
        raise JobError(
            f"{setting}: {name!r} gave {list(levels.shape)} numbers for {bits} bits: return "
            f"{2**bits} finite ones, each larger than the one before"
        )
    return levels


def known_levels(name: str, setting: str) -> None:
    """Raise JobError, before anything is trained, if a setting's function gives no valid levels."""
    if ":" in name:
        for bits in range(1, _MOST_BITS + 1):
            own_levels(name, bits, setting)


def pack_levels(name: str, bits: int) -> str | tuple[float, ...]:
    """Levels as a frame's header holds them: a name if they are built in, else their numbers."""
    if ":" not in name:
        return name
    return tuple(own_levels(name, bits).tolist()) if bits <= _MOST_BITS else "uniform"


def unpack_levels(numbers: tuple[float, ...], bits: int) -> NDArray[np.float32]:
    """The levels of a header. Raises FrameError unless they are 2^bits rising numbers."""
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
