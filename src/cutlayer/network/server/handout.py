"""What devices are told and sent when they join: their task, and the files that they may fetch."""

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
from cutlayer.wire.program_ports import Precision

PIECE_BYTES = 2**20

CheckReady = Callable[[int, Ready], None]
"""Checks what a device (by number) says when it is ready; raises RefusedError to refuse it.
"""


@dataclass(frozen=True)
class JobOffer:
    """What every device is told when it joins, except for its number.

    task: the message. folder: holds the files of the model's part. check: checks what a device says
    when it is ready. no_light: why light devices are refused; None where they are taken.
    """

    task: Task
    folder: Path
    check: CheckReady = lambda number, ready: None
    no_light: str | None = None


class Handout:
    """Hands devices their tasks and files, in the network's thread.

    What light devices are handed is made in the thread that trains: `light_wanted` tells it what
    they wait for, and stir is called when they begin to.
    """

    def __init__(self, offer: JobOffer, stir: Callable[[], None]) -> None:
        self._offer, self._stir = offer, stir
        own = {file.name: offer.folder / file.name for file in offer.task.files}
        self._files: dict[Precision | None, dict[str, Path]] = {None: own}
        self._light: dict[Precision, Future[LightOffer]] = {}
        self._lock = threading.Lock()

    def light_wanted(self) -> dict[Precision, Future[LightOffer]]:
        """The offers that light devices wait for: to be fulfilled by who makes programs."""
        with self._lock:
            return {one: offer for one, offer in self._light.items() if not offer.done()}

    def add(self, precision: Precision, files: Iterable[Path]) -> None:
        """Let light devices of one kind of numbers fetch more files."""
        with self._lock:
            there = self._files.setdefault(precision, {})
            self._files[precision] = there | {file.name: file for file in files}

    async def task_of(self, device: ConnectedDevice) -> Task | LightTask:
        """What a device is told; a light one waits until its programs are made.

        Raises RefusedError where they cannot be, NetworkError when the connection ends before.
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
        """Send a file of the part, or a program, from an offset on, piece by piece."""
        path = self._files.get(device.light, {}).get(wanted.file)
        size = -1 if path is None else path.stat().st_size
        if path is None or not 0 <= wanted.offset < size:
            raise NetworkError(f"message: there is no {wanted.file} from byte {wanted.offset} on")
        with path.open("rb") as file:
            file.seek(wanted.offset)
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                await device.connection.send(Lane.DOWN, piece)
