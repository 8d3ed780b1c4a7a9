"""Files that are whole or not there."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where what can be had again is kept: $CUTLAYER_CACHE, or else ~/.cache/cutlayer."""
    return Path(os.environ.get("CUTLAYER_CACHE") or "~/.cache/cutlayer").expanduser()


def write_atomically(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    mode: the file's permissions, less the umask; nobody can read more in between. Raises OSError,
    and leaves nothing behind then.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.unlink(missing_ok=True)
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
