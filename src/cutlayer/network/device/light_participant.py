"""A device without torch: it takes programs from the server, and runs forward only."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cutlayer.data.report import LoadReport
from cutlayer.errors import RefusedError, RunError
from cutlayer.light.device import LightDevice, read_samples
from cutlayer.light.graph import Compute, ReadyGraph, check_provider
from cutlayer.light.graph_check import check_size
from cutlayer.light.job import LightJob
from cutlayer.light.measure import measure
from cutlayer.light.program import Program
from cutlayer.light.texts import Tokens
from cutlayer.network.device.participant import Participant, Site
from cutlayer.network.file_transfer import fetch_files
from cutlayer.network.transport.messages import (
    DeviceProgram,
    LightTask,
    PartFile,
    Probe,
    Probed,
    RoundBegin,
    Task,
)
from cutlayer.train.exchange import ACTIVATIONS, BASIS, Exchange, Payload
from cutlayer.train.label_histogram import histogram
from cutlayer.train.opening import Opening
from cutlayer.wire.program_ports import Ports, ProgramKey

_KEPT = 6
"""How many graphs stay loaded: those that were used last."""


@dataclass(frozen=True)
class LightPreparation:
    """Prepares a light device; compute: what runs its programs."""

    compute: Compute

    async def __call__(self, site: Site, task: Task | LightTask) -> Participant:
        """The device of a task. Raises RefusedError, DataError, ModelError, RunError."""
        if not isinstance(task, LightTask):
            raise RefusedError("task: it is not for a light device: run the same cutlayer on both")
        task.job.check()
        check_provider(self.compute.provider)
        assert site.data is not None  # see JoinOptions.light
        if task.weights not in [file.name for file in task.files]:
            raise RefusedError(
                "task: its files lack the weights: run the same cutlayer on both sides"
            )
        folder = await fetch_files(site.connection, task.files, site.on_piece)
        device = await site.compute(_make_device, task, folder, site.data)
        return LightParticipant(device, task, folder, self.compute)


def _make_device(task: LightTask, folder: Path, data: Path) -> LightDevice:
    job = task.job
    tokens = None if job.texts is None else Tokens(folder, job.texts)
    samples = read_samples(data, job, tuple(task.classes))
    return LightDevice(task.number, job, samples, len(task.classes), tokens)


class LightParticipant:
    """See Participant. folder: of a task's programs and the file of their weights."""

    def __init__(
        self, device: LightDevice, task: LightTask, folder: Path, compute: Compute
    ) -> None:
        self._device, self._folder, self._weights = device, folder, folder / task.weights
        self._sample, self._compute = task.sample, compute
        self._ready: dict[str, ReadyGraph] = {}
        self._now: dict[ProgramKey, Program] = {}
        self._fetched: dict[str, str] = {}  # hashes of files of weights, by their names

    @property
    def number(self) -> int:
        """See Participant."""
        return self._device.number

    @property
    def samples(self) -> int:
        """See Participant."""
        return len(self._device.samples.labels)

    @property
    def report(self) -> LoadReport | None:
        """See Participant."""
        return self._device.samples.report

    @property
    def basis(self) -> int | None:
        """See Participant."""
        return self._device.basis

    @property
    def steps(self) -> int:
        """See Participant."""
        return self._device.steps

    @property
    def job_seed(self) -> int:
        """See Participant."""
        return self._job.seed

    @property
    def _job(self) -> LightJob:
        return self._device.job

    def labels(self, seed: int) -> list[float] | None:
        """See Participant."""
        job, device = self._job, self._device
        if not job.shares_labels:
            return None
        counts = np.bincount(device.samples.labels, minlength=device.classes)
        found: list[float] = histogram(counts, job.label_epsilon, seed, device.number).tolist()
        return found

    async def fetch(self, site: Site, programs: Sequence[DeviceProgram]) -> None:
        """See Participant."""
        graphs = {graph.sha256: graph for one in programs for graph in one.graphs}
        for graph in graphs.values():
            check_size(graph.size)
        weights = {one.weights.name: one.weights for one in programs if one.weights is not None}
        # Hashing large files again each round would take seconds.
        due = [file for name, file in weights.items() if self._fetched.get(name) != file.sha256]
        files = [*due, *graphs.values()]
        await fetch_files(site.connection, files, site.on_piece, self._folder)
        self._fetched |= {name: file.sha256 for name, file in weights.items()}
        self._now = {}
        job = self._job
        for one in programs:
            tensors = self._weights if one.weights is None else self._folder / one.weights.name
            ports = one.key.blocks_ports(job.is_text)
            blocks = await self._graph(site, one.blocks, ports, tensors)
            ports = one.key.ending_ports(job.is_text, job.prefix)
            ending = await self._graph(site, one.ending, ports, tensors)
            self._now[one.key] = Program(one.key, blocks, ending, job)
        for old in list(self._ready)[: -max(_KEPT, len(graphs))]:
            del self._ready[old]

    async def _graph(self, site: Site, file: PartFile, ports: Ports, weights: Path) -> ReadyGraph:
        """A graph that was fetched, ready to run; weights: the file of its large tensors."""
        graph = self._ready.pop(file.sha256, None)
        if graph is None or graph.ports != ports:
            path = self._folder / file.name
            graph = await site.compute(ReadyGraph, path, weights, ports, self._compute)
        self._ready[file.sha256] = graph
        return graph

    async def measured(self, site: Site) -> str:
        """See Participant."""
        await self.fetch(site, [self._sample])
        found = await site.compute(measure, self._device, self._now[self._sample.key])
        return found.line

    def probe(self, asked: Probe) -> Probed:
        """See Participant."""
        for key, program in self._now.items():
            if key.coding.kind == "floats" and not key.selects and key.scored == asked.scored:
                found = self._device.statistics(asked.round, program)
                curve = None if found.importance is None else found.importance.tolist()
                return Probed(asked.round, asked.cut, found.spread, found.mean_square, curve)
        raise RunError("program: the server sent none to probe with: run the same cutlayer on both")

    def begin(self, message: RoundBegin, opening: Opening) -> None:
        """See Participant."""
        if opening.adapter is not None or opening.change_basis is not None or opening.ways:
            raise RefusedError(
                "round: the server sent an adapter or a basis for what trains it, and a light "
                "device trains nothing: join with torch"
            )
        device = self._device
        device.begin(
            message.round,
            opening,
            self._now,
            message.tokens,
            message.bits_up,
            message.samples,
            message.rate_bits,
        )
        if device.steps != message.steps:
            raise RunError(
                f"training: the server counts {message.steps} steps a round but this device "
                f"{device.steps}: run the same cutlayer on both sides"
            )

    def exchanges(self, step: int) -> Sequence[Exchange]:
        """See Participant."""
        return (BASIS, ACTIVATIONS) if 0 < self._device.plain_steps == step else (ACTIVATIONS,)

    def send(self, exchange: Exchange, step: int) -> Payload:
        """See Participant."""
        return self._device.frame(step)

    def receive(self, exchange: Exchange, step: int, frame: bytes) -> None:
        """See Participant."""
        self._device.learn(frame)

    @property
    def questions(self) -> int:
        """See Participant. A light device trains nothing and has no part in a sum."""
        return 0

    def answer(self, question: bytes) -> bytes:
        """See Participant."""
        raise RunError("a light device trains nothing to sum up: run the same cutlayer on both")

    def upload(self) -> bytes | None:
        """See Participant. None: a light device trains nothing."""
        return None

    def end(self) -> None:
        """See Participant. Nothing is kept for the next round."""
