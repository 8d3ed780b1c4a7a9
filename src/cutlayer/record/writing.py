"""One sentence for every failure to write a run folder."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cutlayer.errors import RunError
from cutlayer.record.folder import ROSTER_FILE


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn failures to write below a run folder into one sentence that says what to do."""
    try:
        yield
    except OSError as error:
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
