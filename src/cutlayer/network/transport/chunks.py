"""Cuts a frame of any length into small messages of a stream, and joins them again.

Each message starts with one byte, all numbers little-endian:

    0  a frame begins: its length as u64, then its first bytes
    1  the frame goes on: its next bytes
    2  credit: u32, how many further frames the other side may begin

A frame's length is checked against the limit when it is declared; memory is taken only for bytes
that have arrived.
"""

import struct
import time
from collections.abc import Iterator

from cutlayer.errors import NetworkError

_FIRST, _NEXT, _CREDIT = 0, 1, 2
_BEGIN = struct.Struct("<BQ")
_GRANT = struct.Struct("<BI")
_GO_ON = bytes([_NEXT])


def split(frame: memoryview, size: int) -> Iterator[bytes]:
    """The messages of one frame, each of at most `size` bytes."""
    head = size - _BEGIN.size
    yield b"".join((_BEGIN.pack(_FIRST, len(frame)), frame[:head]))
    for start in range(head, len(frame), size - 1):
        yield b"".join((_GO_ON, frame[start : start + size - 1]))


def grant(credit: int) -> bytes:
    """The message that lets the other side begin `credit` further frames."""
    return _GRANT.pack(_CREDIT, credit)


class Assembly:
    """Joins messages into frames. allowed: how many frames may still begin.

    Raises NetworkError for messages that no honest sender makes; do not feed it any more after one.
    """

    def __init__(self, max_bytes: int) -> None:
        self.allowed = 0
        self._max_bytes = max_bytes
        self._partial: bytearray | None = None
        self._missing = 0
        self._moved = 0.0

    @property
    def stalled_for_s(self) -> float:
        """Seconds since the last piece of a frame that has begun; 0 if none has begun."""
        return 0.0 if self._partial is None else time.monotonic() - self._moved

    def feed(self, message: bytes) -> bytes | int | None:
        """Take one message; returns the frame it completes, the credit it grants, or None."""
        kind = message[0] if message else None
        if kind == _NEXT and self._partial is not None and 1 < len(message) <= self._missing + 1:
            self._partial += memoryview(message)[1:]
            return self._progress(len(message) - 1)
        if kind == _FIRST and self._partial is None and len(message) >= _BEGIN.size:
            return self._begin(message)
        if kind == _CREDIT and len(message) == _GRANT.size:
            credit: int = _GRANT.unpack(message)[1]
            return credit
        raise NetworkError("stream: bytes came that are no part of a frame")

    def _begin(self, message: bytes) -> bytes | None:
        total: int = _BEGIN.unpack_from(message)[1]
        present = len(message) - _BEGIN.size
        if total > self._max_bytes:
            raise NetworkError(
                f"stream: a frame of {total} bytes was declared, above the limit of "
                f"{self._max_bytes}"
            )
        if not self.allowed:
            raise NetworkError("stream: a frame came without credit for it")
        if present > total or (total and not present):
            raise NetworkError("stream: a frame has other bytes than it declared")
        self.allowed -= 1
        if present == total:
            return message[_BEGIN.size :]
        self._partial = bytearray(memoryview(message)[_BEGIN.size :])
        self._missing = total
        return self._progress(present)

    def _progress(self, arrived: int) -> bytes | None:
        self._missing -= arrived
        self._moved = time.monotonic()
        if self._missing or self._partial is None:
            return None
        frame, self._partial = bytes(self._partial), None
        return frame
