"""The record of a run as it grows: each look reads only what was written since the last."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta

from cutlayer.allocate.round_shape import TRAFFIC_KINDS, Traffic
from cutlayer.files import open_plain
from cutlayer.record.row_lines import FILE, lines_of

Line = TypeVar("Line")


class Tail(Generic[Line]):
    """The rounds of a run folder, in order, each once, across many looks.

    decode: what makes of a line what is wanted of it: row_of, or a Brief's decoder. A record
    that was written anew (a run that was resumed) is read from its start again; `begun` counts how
    often that was. damaged: lines of it so far that were no rounds and are left out.
    """

    def __init__(self, folder: Path, decode: Callable[[bytes], Line]) -> None:
        self.path = folder / FILE
        self.begun = 0
        self.damaged = 0
        self._decode = decode
        self._inode = 0
        self._offset = 0

    def rows(self) -> Iterator[Line]:
        """The rounds written since the last look; a line still being written waits for the next.

        Raises OSError where there is no record, ValueError for a line beyond all bounds.
        """
        with open_plain(self.path) as file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._offset:
                self._inode, self._offset, self.damaged = found.st_ino, 0, 0
                self.begun += 1
            file.seek(self._offset)
            for line in lines_of(file):
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                try:
                    row = self._decode(line)
                except (ValueError, RecursionError, msgspec.MsgspecError):
                    self.damaged += 1
                else:
                    yield row


class Brief(msgspec.Struct):
    """The fields of a Row that a list of runs needs: read in a fifth of the time of all fields."""

    loss: float | None
    traffic: dict[str, Annotated[list[int], Meta(min_length=4, max_length=TRAFFIC_KINDS)]]
    seconds: dict[str, float]
    decisions: dict[str, msgspec.Raw]
    accuracy: float | None = None
    virtual_s: float | None = None
    joules: dict[str, float] = {}


read_brief: Callable[[bytes], Brief] = msgspec.json.Decoder(Brief).decode
"""A line's Brief. Raises msgspec.DecodeError for a line that is no round."""


@dataclass
class Summary:
    """The line of one run in a list of runs, summed up round by round.

    seconds: wall clock of the last round. virtual_s, joules: None without a world.
    """

    rounds: int = 0
    accuracy: float | None = None
    loss: float | None = None
    up_bytes: int = 0
    down_bytes: int = 0
    virtual_s: float | None = None
    joules: float | None = None
    seconds: float = 0.0
    devices: int = 0

    def add(self, row: Brief) -> None:
        """Count one more round."""
        self.rounds += 1
        self.loss = row.loss
        self.accuracy = self.accuracy if row.accuracy is None else row.accuracy
        self.up_bytes += sum(Traffic(*one).up for one in row.traffic.values())
        self.down_bytes += sum(Traffic(*one).down for one in row.traffic.values())
        self.seconds = sum(row.seconds.values())
        self.devices = len(row.decisions)
        if row.virtual_s is not None:
            self.virtual_s = (self.virtual_s or 0.0) + row.virtual_s
            self.joules = (self.joules or 0.0) + sum(row.joules.values())
