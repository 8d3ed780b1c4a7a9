"""What the devices of a network run told of themselves: names, samples, and labels if shared.

A simulated run has no such file: there the job says who holds what.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from cutlayer.errors import RunError
from cutlayer.files import write_atomically
from cutlayer.record.folder import DEVICES_FILE


class ToldDevice(msgspec.Struct, frozen=True):
    """One device by its number in the run.

    samples: that it trains on. labels: samples by class as it shared them, with the noise that the
    job asks for; None where it shares none.
    """

    name: str
    samples: int
    labels: list[int] | None


def write_told(folder: Path, told: Mapping[int, ToldDevice]) -> None:
    """Write down what is known of the devices so far, by number. Raises OSError."""
    write_atomically(folder / DEVICES_FILE, msgspec.json.encode(dict(sorted(told.items()))))


def read_told(folder: Path, devices: int, classes: int | None = None) -> dict[int, ToldDevice]:
    """What the devices of a run told; nothing where there is no such file, as after a simulation.

    devices, classes: how many the job has (classes None: not checked). Raises RunError for a
    damaged file.
    """
    path = folder / DEVICES_FILE
    if not path.is_file():
        return {}
    try:
        told = msgspec.json.decode(path.read_bytes(), type=dict[int, ToldDevice])
        sound = all(0 <= number < devices for number in told) and all(
            one.labels is None
            or (classes in (None, len(one.labels)) and min(one.labels, default=0) >= 0)
            for one in told.values()
        )
    except (OSError, msgspec.MsgspecError, RecursionError):
        sound = False
    if not sound:
        raise RunError(
            f"run folder: {path} is damaged: delete it, and views go without what devices told"
        )
    return told
