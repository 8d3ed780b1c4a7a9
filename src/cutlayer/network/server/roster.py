"""Which device of a network is which of a job: names and numbers, kept in the run folder."""

import json
import re
from pathlib import Path

from cutlayer.errors import RefusedError, RunError
from cutlayer.files import write_atomically


class Roster:
    """Numbers 0 ... devices - 1 by device name; a name keeps its number, and so its seeds.

    A name that is new gets the number it asks for, else the one it ends with (cam-0003), else the
    lowest that is free.
    """

    def __init__(self, path: Path, devices: int) -> None:
        self._path = path
        self._devices = devices
        self.numbers: dict[str, int] = {}
        if path.exists():
            self.numbers = _read(path, devices)

    def write(self) -> None:
        """Write the numbers down. Raises OSError."""
        write_atomically(self._path, json.dumps(self.numbers, indent=1).encode())

    def admit(self, name: str, wanted: int | None) -> int:
        """The number of device `name`, written down before it is told.

        Raises RefusedError where it cannot be had, OSError where it cannot be written.
        """
        known = self.numbers.get(name)
        if known is not None:
            if wanted not in (None, known):
                raise RefusedError(
                    f"number: device {name} is number {known} of this run, not {wanted}: leave "
                    "--number out"
                )
            return known
        number = self._free(name, wanted)
        self.numbers[name] = number
        try:
            self.write()
        except OSError:
            del self.numbers[name]
            raise
        return number

    def _free(self, name: str, wanted: int | None) -> int:
        taken = {number: owner for owner, number in self.numbers.items()}
        if wanted is not None:
            if wanted in taken or wanted >= self._devices:
                why = f"is device {taken[wanted]}" if wanted in taken else "is none of its numbers"
                raise RefusedError(
                    f"number: {wanted} {why} (the job has {self._devices} devices): take another, "
                    "or leave --number out"
                )
            return wanted
        ending = re.search(r"(\d{1,9})$", name)
        if ending and int(ending[1]) < self._devices and int(ending[1]) not in taken:
            return int(ending[1])
        for number in range(self._devices):
            if number not in taken:
                return number
        raise RefusedError(
            f"server: all {self._devices} devices of the job are taken, and {name} is none of "
            "them: raise devices.count in a new run"
        )


def _read(path: Path, devices: int) -> dict[str, int]:
    try:
        numbers = json.loads(path.read_text())
        sound = isinstance(numbers, dict) and all(
            type(number) is int and 0 <= number < devices for number in numbers.values()
        )
    except (OSError, ValueError):
        sound = False
    if not sound or len(set(numbers.values())) < len(numbers):
        raise RunError(
            f"--resume: {path} is damaged: delete it if devices may get other numbers, and with "
            "them other seeds"
        )
    return {str(name): number for name, number in numbers.items()}
