"""JSON that every reader takes: a number that JSON does not have is null."""

import json
import math
from typing import Any


def to_line(values: dict[str, Any]) -> str:
    """`values` as one line of JSON, without its end.

    NaN and infinity become null; in a table of numbers by key, such an entry is left out.
    """
    try:
        return json.dumps(values, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_plain(values), separators=(",", ":"), allow_nan=False)


def _plain(value: Any, top: bool = True) -> Any:
    if isinstance(value, dict):
        kept = value.items() if top else ((k, v) for k, v in value.items() if not _odd(v))
        return {key: _plain(one, top=False) for key, one in kept}
    if isinstance(value, list | tuple):
        return [_plain(one, top=False) for one in value]
    return None if _odd(value) else value


def _odd(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
