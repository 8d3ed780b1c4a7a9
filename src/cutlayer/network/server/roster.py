"""Gives devices of a network run their numbers: a file in the run folder keeps them by name."""

import json
import re
import time
from collections.abc import Callable, Container
from pathlib import Path

from cutlayer.errors import RefusedError, RunError
from cutlayer.files import read_bounded, write_atomically

# Seconds for which a number stays reserved for a device that is not connected.
_HELD_S = 60.0
# Seconds that a device may take to get ready before its number may go to another.
_GETTING_READY_S = 1800.0
_MAX_BYTES = 2**27

Gone = Callable[[str], bool]
"""Whether the device of that name has lost its number."""


class Roster:
    """Numbers 0 ... devices - 1 by device name; a name keeps its number, and so its seeds.

    A new name gets the number that it asks for, else the number at the end of the name (cam-0003),
    else the lowest free number, else that of a device that is gone for good. While the device gets
    ready the number is reserved; once it is ready the number is its own (`numbers`, on disk).
    """

    def __init__(self, path: Path, devices: int) -> None:
        self._path = path
        self._devices = devices
        self.numbers: dict[str, int] = {}
        self._held: dict[str, tuple[int, float]] = {}
        if path.exists():
            self.numbers = _read(path, devices)

    def write(self) -> None:
        """Write the numbers down. Raises OSError."""
        write_atomically(self._path, json.dumps(self.numbers, indent=1).encode())

    def number(self, name: str) -> int:
        """The number of a device that was let in."""
        return self.numbers[name] if name in self.numbers else self._held[name][0]

    def hold(
        self,
        name: str,
        wanted: int | None,
        connected: Container[str] = (),
        gone: Gone = lambda name: False,
        replaceable: Gone = lambda name: False,
    ) -> int:
        """Reserve a number for a device that gets ready. Raises RefusedError if none is free.

        connected: names of the devices connected now. gone: whether a device's number may go to any
        other. replaceable: whether it may go to a device that asks for it.
        """
        known = self.numbers.get(name)
        if known is not None:
            if wanted not in (None, known):
                raise RefusedError(
                    f"number: device {name} is number {known} of this run, not {wanted}: leave "
                    "--number out"
                )
            return known
        for other, (_, since) in list(self._held.items()):
            limit_s = _GETTING_READY_S if other in connected else _HELD_S
            if time.monotonic() - since > limit_s:
                self.let_go(other)
        self._held.pop(name, None)
        number = self._free(name, wanted, gone, replaceable)
        self._held[name] = (number, time.monotonic())
        return number

    def take(self, name: str) -> None:
        """Make the reserved number the device's own, since it is ready.

        Raises OSError, or RefusedError if it took so long that another device got the number.
        """
        if name in self.numbers:
            return
        if name not in self._held:
            raise RefusedError(
                f"server: device {name} took longer than {_GETTING_READY_S / 60:.0f} minutes to "
                "get ready, and its number went to another: join again"
            )
        before = dict(self.numbers)
        number, _ = self._held[name]
        self.numbers = {other: n for other, n in before.items() if n != number} | {name: number}
        try:
            self.write()
        except OSError:
            self.numbers = before
            raise
        del self._held[name]

    def let_go(self, name: str) -> None:
        """Free the number that was reserved for a device that did not get ready."""
        self._held.pop(name, None)

    def _free(self, name: str, wanted: int | None, gone: Gone, replaceable: Gone) -> int:
        owners = {number: owner for owner, number in self.numbers.items()}
        held = {number: owner for owner, (number, _) in self._held.items()}
        if wanted is not None:
            owner = held.get(wanted) or owners.get(wanted)
            replaces = wanted not in held and owner is not None
            if replaces and (gone(str(owner)) or replaceable(str(owner))):
                return wanted
            if owner is not None or wanted >= self._devices:
                why = f"is device {owner}" if owner is not None else "is not a number of the job"
                raise RefusedError(
                    f"number: {wanted} {why} (the job has {self._devices} devices): take another, "
                    "leave --number out, or revoke the keys of a device that this one replaces"
                )
            return wanted
        taken = owners.keys() | held.keys()
        ending = re.search(r"(\d{1,9})$", name)
        if ending and int(ending[1]) < self._devices and int(ending[1]) not in taken:
            return int(ending[1])
        for number in range(self._devices):
            if number not in taken:
                return number
        for number, owner in sorted(owners.items()):
            if number not in held and gone(owner):
                return number
        raise RefusedError(
            f"server: all {self._devices} devices of the job are taken, and {name} is none of "
            f"them: stop the server and go on with --resume and --set devices.count="
            f"{self._devices + 1}, or revoke the keys of one that is replaced"
        )


def _read(path: Path, devices: int) -> dict[str, int]:
    try:
        numbers = json.loads(read_bounded(path, _MAX_BYTES))
        sound = isinstance(numbers, dict) and all(
            type(number) is int and 0 <= number < devices for number in numbers.values()
        )
    except (OSError, ValueError, RecursionError):
        sound = False
    if not sound or len(set(numbers.values())) < len(numbers):
        raise RunError(
            f"--resume: {path} is damaged: delete it if devices may get other numbers, and with "
            "them other seeds"
        )
    return {str(name): number for name, number in numbers.items()}
