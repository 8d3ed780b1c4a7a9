"""Sends devices that join their task, and the files that they may fetch."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cutlayer.errors import NetworkError
from cutlayer.network.server.connected_device import ConnectedDevice
from cutlayer.network.server.light_offers import LightOffer
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.messages import Fetch, LightTask, Ready, Task
from cutlayer.settings.precision import Precision

PIECE_BYTES = 2**20

CheckReady = Callable[[int, Ready], None]
"""Checks the Ready message of a device (by number); raises RefusedError to refuse the device.
"""


@dataclass(frozen=True)
class JobOffer:
    """What every device is told when it joins, except for its number.

    task: the message. folder: of the files of the model's part. check: checks the Ready message of
    a device. no_light: why light devices are refused; None if they are accepted.
    """

    task: Task
    folder: Path
    check: CheckReady = lambda number, ready: None
    no_light: str | None = None


class Handout:
    """Sends devices their tasks and files, in the network's thread.

    The training thread makes the tasks and files of light devices: `light_wanted` says for which
    they wait, and stir is called when a light device begins to wait.
    """

    def __init__(self, offer: JobOffer, stir: Callable[[], None]) -> None:
        self._offer, self._stir = offer, stir
        own = {file.name: offer.folder / file.name for file in offer.task.files}
        self._files: dict[Precision | None, dict[str, Path]] = {None: own}
        self._light: dict[Precision, Future[LightOffer]] = {}
        self._lock = threading.Lock()

    def light_wanted(self) -> dict[Precision, Future[LightOffer]]:
        """The offers for which light devices wait, until the training thread makes the programs."""
        with self._lock:
            return {one: offer for one, offer in self._light.items() if not offer.done()}

    def add(self, precision: Precision, files: Iterable[Path]) -> None:
        """Let light devices of one precision fetch more files."""
        with self._lock:
            there = self._files.setdefault(precision, {})
            self._files[precision] = there | {file.name: file for file in files}

    async def task_of(self, device: ConnectedDevice) -> Task | LightTask:
        """The task for a device; a light device waits until its programs are made.

        Raises RefusedError if they cannot be made, NetworkError when the connection ends before.
        """
        if device.light is None:
            return msgspec.structs.replace(self._offer.task, number=device.number)
        with self._lock:
            wanted = self._light.setdefault(device.light, Future())
        self._stir()
        made = asyncio.wrap_future(wanted)
        over = asyncio.ensure_future(device.connection.wait_closed())
        due: set[asyncio.Future[Any]] = {made, over}
        try:
            await asyncio.wait(due, return_when=asyncio.FIRST_COMPLETED)
            if not made.done():
                raise device.connection.error
            return msgspec.structs.replace(made.result().task, number=device.number)
        finally:
            over.cancel()

    async def send_file(self, device: ConnectedDevice, wanted: Fetch) -> None:
        """Send a file of the part or of a program, from an offset on, piece by piece."""
        path = self._files.get(device.light, {}).get(wanted.file)
        size = -1 if path is None else path.stat().st_size
        if path is None or not 0 <= wanted.offset < size:
            raise NetworkError(f"message: there is no {wanted.file} from byte {wanted.offset} on")
        with path.open("rb") as file:
            file.seek(wanted.offset)
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                await device.connection.send(Lane.DOWN, piece)
