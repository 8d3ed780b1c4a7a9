"""Keeps the images of a table's column in a temporary file, so that they take no memory."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

from cutlayer.errors import DataError
from cutlayer.files import cache_folder

_BYTES, _PATH, _NOTHING = 0, 1, 2


class Spool:
    """Encoded images, or their paths, one for each row; the file is deleted when the process ends.

    It lies in $CUTLAYER_CACHE, or else ~/.cache/cutlayer. Raises DataError if the disk is full.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        folder = cache_folder()
        ends, kinds = [0], []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - as long as its rows
            for value in values:
                kind, content = _packed(value)
                self._file.write(content)
                ends.append(ends[-1] + len(content))
                kinds.append(kind)
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"the images of a table cannot be written to {folder} ({error.strerror}): set "
                "CUTLAYER_CACHE to a folder that has room"
            ) from None
        self._ends = np.array(ends, dtype=np.int64)
        self._kinds = np.array(kinds, dtype=np.uint8)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, row: int) -> bytes | str | None:
        """The bytes of an image, or its path; None where the row held neither."""
        start, end = int(self._ends[row]), int(self._ends[row + 1])
        with self._lock:
            self._file.seek(start)
            content = self._file.read(end - start)
        kind = self._kinds[row]
        if kind == _NOTHING:
            return None
        return content if kind == _BYTES else content.decode(errors="surrogateescape")


def _packed(value: Any) -> tuple[int, bytes]:
    """A cell as kind and content: bytes, a path, or `{bytes, path}` as Hugging Face writes it."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return _BYTES, value
    if isinstance(value, str):
        return _PATH, value.encode(errors="surrogateescape")
    return _NOTHING, b""
