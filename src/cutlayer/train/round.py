"""One round of training: the only training loop, for every method, simulated or networked."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cutlayer.job import Job
from cutlayer.seeds import numpy_rng
from cutlayer.train import device as on_device
from cutlayer.train.device import Device
from cutlayer.train.server import Server
from cutlayer.train.stopwatch import Stopwatch


@dataclass
class Traffic:
    """Bytes of the frames of one device in one round, by what they carry."""

    activations: int = 0
    gradients: int = 0
    adapter_down: int = 0
    adapter_up: int = 0

    @property
    def up(self) -> int:
        """Bytes from the device to the server."""
        return self.activations + self.adapter_up

    @property
    def down(self) -> int:
        """Bytes from the server to the device."""
        return self.gradients + self.adapter_down


@dataclass
class RoundResult:
    """What one round did: losses by device and step, traffic, and time.

    samples: those each device trained on, all epochs together. late: devices whose training was
    not taken into the average. watch holds wall-clock seconds by stage; cpu_seconds is processor
    time of the whole round.
    """

    round: int
    cohort: list[int]
    samples: dict[int, int] = field(default_factory=dict)
    losses: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    traffic: dict[int, Traffic] = field(default_factory=lambda: defaultdict(Traffic))
    late: list[int] = field(default_factory=list)
    watch: Stopwatch = field(default_factory=Stopwatch)
    cpu_seconds: float = 0.0

    @property
    def loss(self) -> float:
        """Mean training loss over all batches of the round."""
        values = [value for losses in self.losses.values() for value in losses]
        return sum(values) / len(values)


OnStep = Callable[[RoundResult, int, int], None]
"""Called after each step with the round so far, the steps done and the steps there are."""

FindLate = Callable[[RoundResult, Sequence[int]], Sequence[int]]
"""Which devices of a turn came too late, from the round so far, their uploads included."""


def draw_cohort(job: Job, round: int) -> list[int]:
    """The devices of a round, in the order they take turns: uniform without replacement.

    When one party holds all the data there is one device, number 0.
    """
    if job.method.pooled:
        return [0]
    rng = numpy_rng(job.seed, round, "cohort")
    return [int(i) for i in rng.permutation(job.devices.count)[: job.devices.cohort]]


def train_round(
    job: Job,
    round: int,
    devices: Sequence[Device],
    server: Server,
    on_step: OnStep | None = None,
    find_late: FindLate | None = None,
) -> RoundResult:
    """Train one round with the cohort `devices`; the server's global adapter is then the new one.

    Raises RunError when a loss is not a number.
    """
    result = RoundResult(round, [device.id for device in devices])
    epochs = job.training.local_epochs
    result.samples = {device.id: epochs * device.samples for device in devices}
    steps = _steps_of(job, devices)
    sequential = job.method.order == "sequential"
    turns = [[device] for device in devices] if sequential else [list(devices)]
    done, start = 0, time.process_time()
    for turn in turns:
        _begin(round, turn, server, result)
        for step in range(max(device.steps for device in turn)):
            _train_step(step, [d for d in turn if step < d.steps], server, result)
            done += 1
            if on_step:
                on_step(result, done, steps)
        _end(turn, server, result, find_late)
    result.cpu_seconds = time.process_time() - start
    return result


def _steps_of(job: Job, devices: Sequence[Device]) -> int:
    """Steps of a round, before its batches are drawn."""
    size, epochs = job.training.batch_size, job.training.local_epochs
    counts = [epochs * -(-device.samples // size) for device in devices]
    return sum(counts) if job.method.order == "sequential" else max(counts)


def _keeps_adapter(server: Server) -> bool:
    """Whether devices keep what they trained, so that no adapter travels."""
    return server.job.method.aggregate == "none"


def _begin(round: int, devices: Sequence[Device], server: Server, result: RoundResult) -> None:
    with result.watch.timed("adapters"):
        server.begin([device.id for device in devices])
        for device in devices:
            frame = None
            if not _keeps_adapter(server):
                frame = server.broadcast(device.id, round)
                result.traffic[device.id].adapter_down += len(frame)
            device.begin(round, frame)


def _train_step(step: int, devices: Sequence[Device], server: Server, result: RoundResult) -> None:
    pool = server.job.training.pool
    for start in range(0, len(devices), pool):
        pooled = devices[start : start + pool]
        if server.job.method.split:
            losses = _through_the_cut(step, pooled, server, result)
        else:
            with result.watch.timed("device"):
                losses = on_device.train_whole(pooled, step)
        for device, loss in zip(pooled, losses, strict=True):
            result.losses[device.id].append(loss)
    with result.watch.timed("server"):
        server.update()


def _through_the_cut(
    step: int, devices: Sequence[Device], server: Server, result: RoundResult
) -> list[float]:
    with result.watch.timed("device"):
        frames = on_device.forward(devices, step, result.watch)
    with result.watch.timed("server"):
        replies, losses = server.step(frames, result.watch)
    if replies:
        with result.watch.timed("device"):
            on_device.backward(devices, replies, result.watch)
    for i, device in enumerate(devices):
        traffic = result.traffic[device.id]
        traffic.activations += len(frames[i])
        traffic.gradients += len(replies[i]) if replies else 0
    return losses


def _end(
    devices: Sequence[Device], server: Server, result: RoundResult, find_late: FindLate | None
) -> None:
    """Send adapters up and average those that are in time; late ones are not trained on."""
    with result.watch.timed("adapters"):
        frames = {}
        if not _keeps_adapter(server):
            frames = {device.id: device.upload() for device in devices}
        for device, frame in frames.items():
            result.traffic[device].adapter_up += len(frame)
        if find_late is not None:
            result.late += find_late(result, [device.id for device in devices])
        in_time = [frame for device, frame in frames.items() if device not in result.late]
        if in_time:
            server.collect(in_time)
