"""Hashes that say whether two files, or two lists of texts, are the same on any machine."""

import hashlib
from functools import lru_cache
from pathlib import Path


def of_parts(*parts: object) -> str:
    """A hash of the texts of `parts`: 64 hexadecimal digits, the same on any machine."""
    whole = hashlib.sha256()
    for part in parts:
        text = str(part).encode()
        whole.update(len(text).to_bytes(8, "little") + text)
    return whole.hexdigest()


def of_file(path: Path) -> str:
    """The SHA-256 of a file's content, read once as long as it does not change. Raises OSError."""
    found = path.stat()
    return _hash(path.resolve(), found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4096)
def _hash(path: Path, mtime_ns: int, size: int) -> str:
    """The hash of a file as it was at that time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
