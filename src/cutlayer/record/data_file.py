"""What a run folder says of the bytes of its samples themselves, as images or texts."""

import json
from collections.abc import Mapping
from pathlib import Path

from cutlayer.files import read_bounded
from cutlayer.record.folder import DATA_FILE

FORMATS = {"jpeg": "JPEG", "webp": "WebP", "zstd": "text", "stored": "stored files"}
"""How the samples may have been encoded (see data.own_bytes), or the files that the images came in,
and what each is called."""
_MOST_BYTES = 2**24


def said_of(sizes: Mapping[str, float]) -> str:
    """The bytes of samples by format, for people: `0.24 MB as JPEG, 0.11 MB as WebP`."""
    return ", ".join(f"{size / 1e6:.3g} MB as {FORMATS[name]}" for name, size in sizes.items())


def own_bytes_of(folder: Path) -> dict[str, float]:
    """Bytes of all training samples of a run by format; those that its file does not tell of, or
    tells nonsense of, are left out."""
    try:
        said = json.loads(read_bounded(folder / DATA_FILE, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    found = said.get("own_bytes") if isinstance(said, dict) else None
    if not isinstance(found, dict):
        return {}
    sizes = {name: found.get(name) for name in FORMATS}
    return {
        name: float(size)
        for name, size in sizes.items()
        if isinstance(size, int) and 0 < size <= 2**53
    }
