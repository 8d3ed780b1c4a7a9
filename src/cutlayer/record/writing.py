"""A new run folder, and one sentence for every failure to write one."""

import datetime
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cutlayer.errors import RunError
from cutlayer.record.folder import JOB_FILE, ROSTER_FILE


def new_folder(name: str) -> Path:
    """Make a new folder below runs/, named by the time and `name`, which no other process has.

    Raises RunError where it cannot be made.
    """
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{stamp}-{name.replace(':', '.')}"
    folder, number = base, 1
    while True:
        with writing(base.parent):
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                number += 1
                folder = base.with_name(f"{base.name}-{number}")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn failures to write into one sentence that says what to do.

    folder: of a run, or one that a plan, a comparison or a trace is written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC and not (folder / JOB_FILE).exists():
            raise RunError(
                f"the disk of {folder} is full: free some space, or give another folder with --out"
            ) from None
        if error.errno == errno.ENOSPC:
            verb = "serve" if (folder / ROSTER_FILE).exists() else "simulate"
            raise RunError(
                f"run folder: the disk of {folder} is full: free some space, then continue with "
                f"cutlayer {verb} --resume {folder}"
            ) from None
        reason = error.strerror or str(error)
        raise RunError(
            f"run folder: cannot write in {folder} ({reason}): give another folder with --out"
        ) from None
