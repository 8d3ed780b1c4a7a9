"""What a device does in the rounds of a network run, with torch or without."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cutlayer.data.report import LoadReport
from cutlayer.network.file_transfer import OnPiece
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.messages import (
    DeviceProgram,
    LightTask,
    Probe,
    Probed,
    RoundBegin,
    Task,
)
from cutlayer.train.exchange import Exchange, Payload
from cutlayer.train.opening import Opening

Value = TypeVar("Value")


class Compute(Protocol):
    """Runs work in the thread that computes."""

    def __call__(self, work: Callable[..., Value], *given: Any) -> Awaitable[Value]:
        """What `work` returns."""


@dataclass(frozen=True)
class Site:
    """What a device prepares itself with.

    data: its own samples; None: those that a device of its number has in a simulation. model: a
    checkpoint on this machine; None: the server sends the part. on_piece: called during downloads.
    """

    connection: Connection
    compute: Compute
    on_piece: OnPiece
    data: Path | None = None
    model: Path | None = None


class Participant(Protocol):
    """A device that has a task. All methods but `fetch` and `measured` run in a separate thread."""

    @property
    def number(self) -> int:
        """The device's number in the job."""

    @property
    def samples(self) -> int:
        """How many samples it has."""

    @property
    def report(self) -> LoadReport | None:
        """What data was loaded, from where."""

    @property
    def basis(self) -> int | None:
        """The fingerprint of the basis that it has; None without one."""

    @property
    def steps(self) -> int:
        """How many batches the present round has."""

    @property
    def job_seed(self) -> int:
        """The seed of the job, which the server knows too."""

    def labels(self, seed: int) -> list[float] | None:
        """How many samples it has of each class, with noise from `seed` if the job asks for it;
        None if devices of the job share no labels."""

    async def fetch(self, site: Site, programs: Sequence[DeviceProgram]) -> None:
        """Fetch the programs that a message names. Raises NetworkError and RefusedError."""

    async def measured(self, site: Site) -> str:
        """What a batch takes on this device, in one line. The device is of no use afterwards."""

    def probe(self, asked: Probe) -> Probed:
        """Statistics of the device's activations."""

    def begin(self, message: RoundBegin, opening: Opening) -> None:
        """Start a round as the server decided it."""

    def exchanges(self, step: int) -> Sequence[Exchange]:
        """The exchanges of a step, in order."""

    def send(self, exchange: Exchange, step: int) -> Payload:
        """The frame or loss that goes up in an exchange."""

    def receive(self, exchange: Exchange, step: int, frame: bytes) -> None:
        """Take a frame that came down in an exchange."""

    @property
    def questions(self) -> int:
        """How many questions of a secure sum it answers at the round's end; 0 without a sum."""

    def answer(self, question: bytes) -> bytes:
        """Its answer to a question of a secure sum. Raises FrameError, RunError."""

    def upload(self) -> bytes | None:
        """The frame of the adapter that it trained in the round; None if it trains nothing, or if a
        secure sum takes the place of uploads."""

    def end(self) -> None:
        """End the round."""


class Preparation(Protocol):
    """Prepares a device of one kind."""

    def __call__(self, site: Site, task: Task | LightTask) -> Awaitable[Participant]:
        """The device of a task. Raises RefusedError, DataError, ModelError, RunError."""
