"""What a device does in the rounds of a network run, however it computes."""

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

    data: samples of its own; None: those that its number has in a simulation. model: a checkpoint
    on this machine; None: the server sends the part.
    """

    connection: Connection
    compute: Compute
    on_piece: OnPiece
    data: Path | None = None
    model: Path | None = None


class Participant(Protocol):
    """A device that has a task. All but `fetch` computes, in a thread of its own."""

    @property
    def number(self) -> int:
        """The device's, in the job."""

    @property
    def samples(self) -> int:
        """How many it has."""

    @property
    def report(self) -> LoadReport | None:
        """What was loaded from where."""

    @property
    def basis(self) -> int | None:
        """The fingerprint of the basis that it has; None without one."""

    @property
    def steps(self) -> int:
        """Batches of the round that has begun."""

    @property
    def job_seed(self) -> int:
        """The job's, which its server knows."""

    def labels(self, seed: int) -> list[float] | None:
        """Samples of each class, with noise from `seed` where the job asks for it; None where the
        job shares none."""

    async def fetch(self, site: Site, programs: Sequence[DeviceProgram]) -> None:
        """Have the programs that a message names. Raises NetworkError and RefusedError."""

    async def measured(self, site: Site) -> str:
        """What a batch takes on this device, in one line. The device is of no use afterwards."""

    def probe(self, asked: Probe) -> Probed:
        """Statistics of the device's activations."""

    def begin(self, message: RoundBegin, opening: Opening) -> None:
        """Start a round as the server decided it."""

    def exchanges(self, step: int) -> Sequence[Exchange]:
        """What crosses in a step, in order."""

    def send(self, exchange: Exchange, step: int) -> Payload:
        """What goes up in an exchange."""

    def receive(self, exchange: Exchange, step: int, frame: bytes) -> None:
        """Take what came down in an exchange."""

    @property
    def questions(self) -> int:
        """Of a secure sum that end the round, each of which it answers; 0: there is none."""

    def answer(self, question: bytes) -> bytes:
        """What it answers in a secure sum. Raises FrameError, RunError."""

    def upload(self) -> bytes | None:
        """The frame of what it trained in the round; None where it trains nothing, or its part of a
        secure sum has gone up."""

    def end(self) -> None:
        """End the round."""


class Preparation(Protocol):
    """Makes a device of one kind ready."""

    def __call__(self, site: Site, task: Task | LightTask) -> Awaitable[Participant]:
        """The device of a task. Raises RefusedError, DataError, ModelError, RunError."""
