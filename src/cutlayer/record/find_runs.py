"""Finds the run folders below a folder, without reading their contents."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from cutlayer.record.folder import JOB_FILE

DEEPEST = 3
"""Folders below the one that is named in which runs are looked for: a comparison has its own."""


def find_run_folders(folder: Path) -> Iterator[Path]:
    """The folders with a job in them, down to three levels, the given one included.

    Runs hold no runs; what cannot be looked at has none, and links are followed once.
    """
    yield from _below(folder, DEEPEST, set())


def _below(folder: Path, depth: int, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """As `find_run_folders`, so many folders down.

    seen: folders that links have led to before, which are not gone through again.
    """
    try:
        found = folder.stat()
        if (found.st_dev, found.st_ino) in seen:
            return
        seen.add((found.st_dev, found.st_ino))
        with os.scandir(folder) as entries:
            below = sorted(entries, key=lambda entry: entry.name)
    except OSError:  # gone meanwhile, or not ours to read
        return
    if any(entry.name == JOB_FILE and _is(entry.is_file) for entry in below):
        yield folder
    elif depth:
        for entry in below:
            if _is(entry.is_dir):
                yield from _below(folder / entry.name, depth - 1, seen)


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind (file, folder); False where it cannot be looked at."""
    try:
        return kind()
    except OSError:
        return False
