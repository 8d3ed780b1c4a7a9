"""Which devices are ready, which left and which were turned away.

Written in the network's thread, read in the thread that trains.
"""

import threading
from collections import deque
from dataclasses import dataclass

from cutlayer.network.server.connected_device import ConnectedDevice

# At most this many departures, the newest, are kept until they are asked for.
_NEWS = 256


@dataclass(frozen=True)
class Departure:
    """A device that has left or was turned away: its number, its name, and why."""

    number: int
    name: str
    reason: str


class Presence:
    """The devices of a run that are ready, and news of those that are not any more."""

    def __init__(self) -> None:
        self._ready: dict[int, ConnectedDevice] = {}
        self._departures: deque[Departure] = deque(maxlen=_NEWS)
        self._turned_away: set[int] = set()
        self._left_unready: set[str] = set()
        self._changed = threading.Condition()

    def ready(self) -> dict[int, ConnectedDevice]:
        """The devices that are ready, by number."""
        with self._changed:
            return dict(self._ready)

    def turned_away(self) -> set[int]:
        """Devices that were refused or whose keys were revoked; the run never waits for them."""
        with self._changed:
            return set(self._turned_away)

    def departures(self) -> list[Departure]:
        """The devices that have left since the last call."""
        with self._changed:
            found = list(self._departures)
            self._departures.clear()
            return found

    def wait(self, timeout_s: float) -> None:
        """Wait until a device comes, goes or asks for something, or the time is over."""
        with self._changed:
            self._changed.wait(timeout_s)

    def stir(self) -> None:
        """Wake up the threads that wait."""
        with self._changed:
            self._changed.notify_all()

    def enter(self, device: ConnectedDevice) -> None:
        """Note that a device is ready."""
        with self._changed:
            self._ready[device.number] = device
            self._turned_away.discard(device.number)
            self._changed.notify_all()

    def turn_away(self, device: ConnectedDevice, reason: str) -> None:
        """Note that the run need not wait for a device; reported once, however often it retries."""
        with self._changed:
            if device.number not in self._turned_away:
                self._turned_away.add(device.number)
                self._departures.append(Departure(device.number, device.connection.name, reason))
            self._changed.notify_all()

    def leave(self, device: ConnectedDevice, done: bool, revoked: bool) -> None:
        """Note that a device is gone.

        done: whether it left because the job is done. revoked: whether its keys were revoked, so
        that it cannot come back.
        """
        connection, number = device.connection, device.number
        with self._changed:
            was_ready = self._ready.get(number) is device
            if was_ready:
                del self._ready[number]
            # A device that leaves before it is ready is reported once, however often it retries.
            new = connection.name not in self._left_unready
            if not was_ready and new and len(self._left_unready) < _NEWS:
                self._left_unready.add(connection.name)
            if (was_ready or new) and number not in self._turned_away and not done:
                self._departures.append(Departure(number, connection.name, connection.reason))
            if revoked:
                self._turned_away.add(number)
            self._changed.notify_all()
