"""Reads files of recorded positions and rates: plain or compressed; refuses large or unfinished."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

from cutlayer.errors import WorldError

MAX_FILE_BYTES = 512 * 2**20
"""Most bytes of a trace, also of what it unpacks to: a trace is read into memory whole."""

_PACKED: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
_PIECE_BYTES = 2**20


def read_file(path: str | Path, field: str) -> bytes:
    """The content of a trace; gzip, bzip2 and xz are unpacked, whatever the file is called.

    field: the job's field that names the file, for messages. Raises WorldError for a file that
    is not there, cannot be read, is too large, or ends before it is whole.
    """
    file = Path(path)
    if not file.is_file():
        raise WorldError(f"{field}: there is no file {file}: give the path of one")
    where = f"{field}: {file.name}"
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
        opened = next((opener for mark, opener in _PACKED.items() if start.startswith(mark)), None)
        with opened(file) if opened else file.open("rb") as stream:
            content = io.BytesIO()
            while piece := stream.read(_PIECE_BYTES):
                content.write(piece)
                if content.tell() > MAX_FILE_BYTES:
                    raise WorldError(
                        f"{where} has more than the {MAX_FILE_BYTES // 2**20} MiB that are read: "
                        "cut it or write fewer steps a second"
                    )
    except EOFError:
        raise WorldError(
            f"{where} is unfinished, its compressed data break off: wait until it is written, or "
            "copy it again"
        ) from None
    except (OSError, lzma.LZMAError, zlib.error) as error:
        raise WorldError(f"{where} cannot be read ({error}): copy it again") from None
    return content.getvalue()
