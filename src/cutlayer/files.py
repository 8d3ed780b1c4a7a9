"""Files that are whole or not there, and files that are no more than they should be."""

import os
import stat
from pathlib import Path
from typing import BinaryIO


def cache_folder() -> Path:
    """Where what can be had again is kept: $CUTLAYER_CACHE, or else ~/.cache/cutlayer."""
    return Path(os.environ.get("CUTLAYER_CACHE") or "~/.cache/cutlayer").expanduser()


def open_plain(path: str | Path) -> BinaryIO:
    """Open a plain file to read. Raises OSError, at once for a pipe or a device, which may hang."""
    flags = os.O_RDONLY
    # Opening a pipe would wait for somebody who writes to it. Windows has no pipes among its files,
    # and hands none of them on; what it would do to ends of lines is switched off.
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    handle = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(None, "it is no plain file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bounded(path: str | Path, most_bytes: int) -> bytes:
    """The content of a plain file of no more than `most_bytes`. Raises OSError."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        # A file of /proc says 0 and holds something: what counts is what comes.
        content = file.read(most_bytes + 1) if size <= most_bytes else b""
    if size > most_bytes or len(content) > most_bytes:
        raise OSError(None, f"it has more than the {most_bytes} bytes it may have", str(path))
    return content


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
