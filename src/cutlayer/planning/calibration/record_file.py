"""Files of records that a verb measures and keeps: JSON, whole or not there, bounded when read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from cutlayer.errors import RunError
from cutlayer.files import read_bounded, write_atomically
from cutlayer.planning.calibration.survey_result import Floats

_MAX_BYTES = 2**26

Record = TypeVar("Record")


def read_record(path: str | Path, kind: type[Record], name: str, verb: str) -> Record:
    """The record of a dataclass in a file. name: what it is; verb: of cutlayer, which makes it.

    Raises RunError where there is none or it is damaged.
    """
    try:
        return msgspec.json.decode(
            read_bounded(path, _MAX_BYTES), type=kind, dec_hook=lambda _, values: _array(values)
        )
    except OSError as error:
        raise RunError(
            f"{name}: cannot read {path} ({error.strerror}): make it with cutlayer {verb}"
        ) from None
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise RunError(
            f"{name}: {path} is no whole record ({error}): delete it and run cutlayer {verb} again"
        ) from None


def write_record(record: object, path: str | Path, name: str) -> Path:
    """Write a record as JSON, whole or not at all. Returns the path; raises RunError."""
    path = Path(path)
    fields = msgspec.to_builtins(record, enc_hook=_plain, str_keys=True)
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in fields.items())
    make_folder(path, name)
    with writing(path, name):
        write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    return path


def make_folder(path: Path, name: str) -> None:
    """Make the folder that the file `path` will be in. Raises RunError."""
    with writing(path, name):
        path.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def writing(path: Path, name: str) -> Iterator[None]:
    """Turn what goes wrong while `path` is written into a RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{name}: cannot write {path} ({error.strerror}): give another file with --out, "
            "or another cache folder in CUTLAYER_CACHE"
        ) from None


def _plain(values: Floats) -> Any:
    plain = values.astype(object)
    plain[np.isnan(values)] = None  # JSON has no NaN
    return plain.tolist()


def _array(values: object) -> Floats:
    return np.array(values, dtype=np.float64)
