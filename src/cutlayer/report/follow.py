"""The record of a run as it grows: each look reads only what was written since the last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cutlayer.report.record import FILE, Row


class Tail:
    """The rounds of a run folder, in order, each once, across many looks.

    A record that was written anew (a run that was resumed) is read from its start again; `begun`
    counts how often that was.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.begun = 0
        self._inode = 0
        self._offset = 0

    def rows(self) -> Iterator[Row]:
        """The rounds written since the last look; a line still being written waits for the next.

        Raises OSError where there is no record, ValueError for a line that is no round.
        """
        with self.path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._offset:
                self._inode, self._offset = found.st_ino, 0
                self.begun += 1
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    row = Row.from_json(line.decode())
                except (ValueError, TypeError, KeyError, AttributeError):
                    raise ValueError(
                        f"byte {self._offset} of {self.path} begins no round"
                    ) from None
                self._offset += len(line)
                yield row


@dataclass
class Summary:
    """What a list of runs says of one, summed up round by round.

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

    def add(self, row: Row) -> None:
        """Count one more round."""
        self.rounds += 1
        self.loss = row.loss
        self.accuracy = self.accuracy if row.accuracy is None else row.accuracy
        self.up_bytes += row.up_bytes
        self.down_bytes += row.down_bytes
        self.seconds = sum(row.seconds.values())
        self.devices = len(row.decisions)
        if row.virtual_s is not None:
            self.virtual_s = (self.virtual_s or 0.0) + row.virtual_s
            self.joules = (self.joules or 0.0) + sum(row.joules.values())
