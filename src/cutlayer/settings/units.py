"""Quantities in words: `50 MHz`, `200 mW`, `23 dBm` become the numbers that a job keeps.

The end of a field's name says its unit, as in bandwidth_hz; a number without a unit is in that one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Scale = float | Callable[[float], float]
_K, _M, _G, _T = 1e3, 1e6, 1e9, 1e12
_BYTES = {"B": 1.0, "kB": _K, "MB": _M, "GB": _G, "TB": _T}
UNITS: Mapping[str, Mapping[str, Scale]] = {
    "_dbm_per_hz": {"dBm/Hz": 1.0},
    "_bps_per_hz": {"bit/s/Hz": 1.0},
    "_hz": {"Hz": 1.0, "kHz": _K, "MHz": _M, "GHz": _G},
    "_bps": {"bit/s": 1.0, "kbit/s": _K, "Mbit/s": _M, "Gbit/s": _G},
    "_flops": {"FLOP/s": 1.0, "GFLOP/s": _G, "TFLOP/s": _T, "PFLOP/s": 1e15},
    "_bytes": _BYTES | {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40},
    "_db": {"dB": 1.0},
    "_w": {"W": 1.0, "mW": 1e-3, "kW": _K, "dBm": lambda dbm: 10 ** (dbm / 10 - 3)},
    "_j": {"J": 1.0, "mJ": 1e-3, "kJ": _K, "Wh": 3600.0},
    "_s": {"s": 1.0, "ms": 1e-3, "min": 60.0, "h": 3600.0},
    "_m": {"m": 1.0, "km": _K},
}
"""By the end of a field's name, the units that its value may have, the field's own first."""

_QUANTITY = re.compile(
    r"\s*([-+]?[0-9.]{1,30}(?:[eE][-+]?[0-9]{1,3})?)\s*([A-Za-z]+(?:/[A-Za-z]+)*)\s*"
)


def in_own_unit(field: str, value: Any) -> Any:
    """The number of a text such as `50 MHz` in the unit of `field`; anything else as it is.

    Of a list, each of its values. Raises ValueError for a unit that the field does not have.
    """
    if isinstance(value, list | tuple):
        return [in_own_unit(field, one) for one in value]
    if not isinstance(value, str):
        return value
    units = next((units for end, units in UNITS.items() if field.endswith(end)), None)
    found = _QUANTITY.fullmatch(value) if units else None
    if units is None or found is None:
        return value
    number, unit = found.groups()
    if unit not in units:
        own, *others = units
        raise ValueError(
            f"{field} is {value!r}: give a number of {own}"
            + (f", or one with {', '.join(units)} behind it" if others else "")
        )
    try:
        scale, given = units[unit], float(number)
        scaled = scale(given) if callable(scale) else scale * given
    except (ValueError, OverflowError):
        raise ValueError(f"{field} is {value!r}, of which {number!r} is no number") from None
    return int(scaled) if field.endswith("_bytes") and scaled.is_integer() else scaled
