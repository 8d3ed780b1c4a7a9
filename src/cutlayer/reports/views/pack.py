"""Arrays as small JSON: numbers become codes of one or two bytes, deflated, in base64."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

View = dict[str, Any]
Floats = npt.NDArray[np.float64]


def pack(values: npt.ArrayLike, scale: Literal["linear", "log"] = "linear") -> View:
    """An array of any shape for a page's `unpack`; NaN and infinity come back as NaN.

    Whole numbers from 0 to 65534 are exact. Others are rounded to one of 65,535 steps between the
    least and the largest: equal ones, or for positive values with "log" equal ratios.
    """
    array = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(array)
    found = array[finite]
    low, step, log = 0.0, 1.0, False
    whole = bool((found == np.floor(found)).all()) and bool(((found >= 0) & (found < 65535)).all())
    if not whole:
        log = scale == "log" and bool((found > 0).all())
        found = np.log(found) if log else found
        low = float(found.min())
        step = float(found.max() - low) / 65534 or 1.0
    codes = np.rint((found - low) / step)
    wide = bool(codes.size) and codes.max() >= 255
    coded = np.full(array.shape, 65535 if wide else 255, dtype="<u2" if wide else "u1")
    coded[finite] = codes
    return {
        "bytes": 2 if wide else 1,
        "shape": list(array.shape),
        "low": low,
        "step": step,
        "log": log,
        "deflated": base64.b64encode(zlib.compress(coded.tobytes(), 9)).decode("ascii"),
    }


def plain(value: Any) -> Any:
    """`value` with numbers that JSON has: six significant digits, None for NaN and infinity."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def spread(places: Sequence[int], most: int) -> list[int]:
    """At most `most` of the places, evenly spread, the first and the last among them."""
    if len(places) <= most:
        return list(places)
    picked = np.unique(np.linspace(0, len(places) - 1, max(1, most)).round().astype(int))
    return [places[i] for i in picked]
