"""A log for machines: one JSON object a line."""

import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from cutlayer.errors import RunError
from cutlayer.record.plain_json import to_line


class EventLog:
    """Writes events as they happen, from any thread; without a path nothing is written.

    path: a file to append to, or "-" for standard error. A line has `time` (seconds since 1970),
    `event`, and the event's own fields. Raises RunError when the file cannot be opened.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._lock = threading.Lock()
        self._file: TextIO | None = None
        if path is not None and str(path) == "-":
            self._file = sys.stderr
        elif path is not None:
            try:
                self._file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 - for good
            except OSError as error:
                raise RunError(
                    f"--log: cannot write {path} ({error.strerror}): name another file, or - for "
                    "standard error"
                ) from None

    def write(self, event: str, **fields: object) -> None:
        """Write one line. If the log cannot be written, the run goes on."""
        if self._file is None:
            return
        line = to_line({"time": round(time.time(), 3), "event": event, **fields})
        with self._lock:
            try:
                self._file.write(line + "\n")
                self._file.flush()
            except OSError:
                self._file = None
