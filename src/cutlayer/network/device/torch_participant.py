"""A device that has torch: it can train, and takes its part of the model as safetensors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cutlayer.data.report import LoadReport
from cutlayer.errors import RefusedError
from cutlayer.network.device import device_requests
from cutlayer.network.device.participant import Participant, Site
from cutlayer.network.device.torch_measure import measure
from cutlayer.network.file_transfer import fetch_files
from cutlayer.network.part_files import own_part
from cutlayer.network.transport.messages import (
    DeviceProgram,
    LightTask,
    Probe,
    Probed,
    RoundBegin,
    Task,
)
from cutlayer.train.device import Device
from cutlayer.train.exchange import Exchange, Payload, step_exchanges
from cutlayer.train.label_histogram import histogram
from cutlayer.train.opening import Opening
from cutlayer.train.pool import Pool
from cutlayer.train.secure_upload import QUESTIONS
from cutlayer.train.stopwatch import Stopwatch


async def prepare(site: Site, task: Task | LightTask) -> Participant:
    """The device that a task describes. Raises RefusedError, DataError, ModelError, RunError."""
    if not isinstance(task, Task):
        raise RefusedError("task: it is for a light device: run the same cutlayer on both sides")
    job = device_requests.read_job(task.job)
    if site.model is None:
        folder: Path = await fetch_files(site.connection, task.files, site.on_piece)
    else:
        folder = await site.compute(own_part, site.model, job, task)
    device = await site.compute(device_requests.make_device, job, task, folder, site.data)
    return TorchParticipant(device, len(task.classes))


class TorchParticipant:
    """A Participant around `train.device.Device`. classes: how many there are."""

    def __init__(self, device: Device, classes: int) -> None:
        self._device, self._classes = device, classes
        self._pool, self._watch = Pool([]), Stopwatch()

    @property
    def number(self) -> int:
        """See Participant."""
        return self._device.id

    @property
    def samples(self) -> int:
        """See Participant."""
        return len(self._device.data)

    @property
    def report(self) -> LoadReport | None:
        """See Participant."""
        return self._device.data.report

    @property
    def basis(self) -> int | None:
        """See Participant."""
        return self._device.coding.fingerprint

    @property
    def steps(self) -> int:
        """See Participant."""
        return self._device.steps

    @property
    def job_seed(self) -> int:
        """See Participant."""
        return self._device.job.seed

    def labels(self, seed: int) -> list[float] | None:
        """See Participant."""
        device, section = self._device, self._device.job.generated
        if section is None:
            return None
        counts = np.bincount(device.data.labels, minlength=self._classes)
        found: list[float] = histogram(counts, section.share_epsilon, seed, device.id).tolist()
        return found

    async def fetch(self, site: Site, programs: Sequence[DeviceProgram]) -> None:
        """See Participant. A device with torch runs no programs."""
        if programs:
            raise RefusedError("program: this device runs none: run the same cutlayer on both")

    async def measured(self, site: Site) -> str:
        """See Participant."""
        found = await site.compute(measure, self._device)
        return found.line

    def probe(self, asked: Probe) -> Probed:
        """See Participant."""
        return device_requests.probe(self._device, asked)

    def begin(self, message: RoundBegin, opening: Opening) -> None:
        """See Participant."""
        device_requests.begin(self._device, message, opening)
        self._pool, self._watch = Pool([self._device]), Stopwatch()

    def exchanges(self, step: int) -> Sequence[Exchange]:
        """See Participant."""
        device = self._device
        fits = 0 < device.coding.plain_steps == step
        return step_exchanges(device.job.method, device.model, device.decision.cut, fits)

    def send(self, exchange: Exchange, step: int) -> Payload:
        """See Participant."""
        (payload,) = self._pool.send(exchange, step, self._watch)
        return payload

    def receive(self, exchange: Exchange, step: int, frame: bytes) -> None:
        """See Participant."""
        self._pool.receive(exchange, step, {self._device.id: frame}, self._watch)

    @property
    def questions(self) -> int:
        """See Participant."""
        device = self._device
        return QUESTIONS if device.adapter and device.job.sums_securely else 0

    def answer(self, question: bytes) -> bytes:
        """See Participant."""
        return self._device.answer(question)

    def upload(self) -> bytes | None:
        """See Participant."""
        device = self._device
        if not device.adapter or device.job.sums_securely:
            return None
        return device_requests.upload(device)

    def end(self) -> None:
        """See Participant."""
        self._pool = Pool([])
        self._device.end()
