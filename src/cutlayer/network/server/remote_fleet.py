"""The devices of a run over a network: what training asks of them, as frames and messages."""

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.round_shape import batch_sizes
from cutlayer.errors import CutlayerError, NetworkError, RunError
from cutlayer.job import Job
from cutlayer.network.server.connected_devices import ConnectedDevice, ConnectedDevices
from cutlayer.network.server.measured_world import MeasuredWorld
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.messages import Probe, Probed, RoundBegin, RoundEnd
from cutlayer.planning.known.planning_input import PlanningSource
from cutlayer.record.checkpoint import RunState
from cutlayer.rounds.progress import Progress
from cutlayer.train.activation_statistics import ActivationStatistics
from cutlayer.train.exchange import LOSS, Exchange, Payload
from cutlayer.train.label_sharing import SharedLabels
from cutlayer.train.link import Started
from cutlayer.train.parts import Parts, labels_of
from cutlayer.train.result import RoundResult
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.wire.codec import AdapterMessage, decode_adapter, encode_adapter

Answer = TypeVar("Answer")

# A run whose every device fails in so many rounds on end is not helped by more of them.
_HOPELESS = 3


@dataclass(frozen=True)
class Timeouts:
    """How long a run waits for its devices.

    devices: to begin with; None: those of a round. answer_s: for one answer of a device. return_s:
    in later rounds, for devices that were lost. round_s: for a whole round; those that are not
    done by then are left out.
    """

    devices: int | None = None
    answer_s: float = 120.0
    return_s: float = 30.0
    round_s: float = math.inf


class RemoteLink:
    """The devices of one round (see Link); a connection that is lost does not come back into it.

    own: frames with adapters that devices keep for themselves, sent where there is no broadcast.
    """

    def __init__(
        self,
        job: Job,
        connected_devices: ConnectedDevices,
        connected: Mapping[int, ConnectedDevice],
        own: Mapping[int, bytes] | None = None,
        timeouts: Timeouts = Timeouts(),
    ) -> None:
        self.job = job
        self.connected = dict(connected)
        self.faults: dict[int, str] = {}
        self._connected_devices = connected_devices
        self._own = own or {}
        self._timeouts = timeouts
        self._until = time.monotonic() + timeouts.round_s
        self._round = -1

    def measure(
        self, round: int, devices: Sequence[int], cut: int, scored: bool
    ) -> dict[int, ActivationStatistics]:
        """See Link."""

        async def ask(device: ConnectedDevice) -> ActivationStatistics:
            await device.connection.tell(Probe(round, cut, scored))
            return _measured(await device.next(device.probes), round, cut, scored)

        return self._each(devices, ask)

    def begin(
        self, round: int, decisions: Mapping[int, Decision], frames: Mapping[int, bytes]
    ) -> dict[int, Started]:
        """See Link."""
        self._round = round

        async def start(device: ConnectedDevice) -> Started:
            frame = frames.get(device.number, self._own.get(device.number))
            started = self._started(device)
            decided = vars(decisions[device.number])
            await device.connection.tell(
                RoundBegin(round, steps=started.steps, adapter=frame is not None, **decided)
            )
            if frame is not None:
                await device.connection.send(Lane.DOWN, frame)
            return started

        return self._each(list(decisions), start)

    def receive(
        self, exchange: Exchange, step: int, devices: Sequence[int], watch: Stopwatch
    ) -> Mapping[int, Payload]:
        """See Link. The devices compute unasked; this takes what they sent."""
        if exchange == LOSS:
            return self._each(devices, lambda device: self._loss(device, step))
        return self._each(devices, lambda device: device.connection.receive(Lane.UP))

    async def _loss(self, device: ConnectedDevice, step: int) -> float:
        done = await device.next(device.losses)
        due = (done.round, done.step) == (self._round, step)
        if not due or done.loss is None or not math.isfinite(done.loss):
            raise NetworkError(f"message: a loss of {done.loss} was not due")
        return done.loss

    def send(
        self, exchange: Exchange, step: int, frames: Mapping[int, bytes], watch: Stopwatch
    ) -> None:
        """See Link."""

        async def send(device: ConnectedDevice) -> None:
            await device.connection.send(Lane.DOWN, frames[device.number])

        self._each(list(frames), send)

    def upload(self, devices: Sequence[int]) -> dict[int, bytes]:
        """See Link."""
        return self._each(devices, lambda device: device.connection.receive(Lane.UP))

    def reject(self, device: int, fault: CutlayerError) -> None:
        """Let go of the device."""
        self.faults[device] = str(fault)
        self._connected_devices.let_go(self.connected[device], str(fault))

    def end(self, round: int, late: Sequence[int]) -> None:
        """Tell the devices that are left that the round is over."""

        async def tell(device: ConnectedDevice) -> None:
            await device.connection.tell(RoundEnd(round, device.number in late))

        self._each([n for n, device in self.connected.items() if not device.connection.over], tell)

    def _started(self, device: ConnectedDevice) -> Started:
        steps = len(batch_sizes(device.samples, self.job.training))
        return Started(steps, device.samples)

    def _each(
        self, devices: Sequence[int], act: Callable[[ConnectedDevice], Awaitable[Answer]]
    ) -> dict[int, Answer]:
        timeouts = min(self._timeouts.answer_s, max(0.0, self._until - time.monotonic()))
        found = self._connected_devices.each([self.connected[n] for n in devices], act, timeouts)
        for number in devices:
            if number not in found:
                self.faults.setdefault(number, self.connected[number].connection.reason)
        return found


class RemoteFleet:
    """Devices that have joined over the network (see rounds.Fleet).

    real: False to go by the job's world, as a simulation does.
    """

    def __init__(
        self,
        job: Job,
        parts: Parts,
        connected_devices: ConnectedDevices,
        timeouts: Timeouts,
        progress: Progress,
        *,
        real: bool = True,
    ) -> None:
        self.job, self.parts, self.real = job, parts, real
        self._connected_devices, self._timeouts, self._progress = (
            connected_devices,
            timeouts,
            progress,
        )
        self.link = RemoteLink(job, connected_devices, {}, {}, timeouts)
        self._labels = labels_of(job, parts)
        self._measured = MeasuredWorld(job, parts.model.spec) if job.world and real else None
        self.planning_source: PlanningSource | None = self._measured
        self._begun = False
        self._given_up: set[int] = set()
        self._carried = (0, 0)
        self._in_vain = 0

    def gather(self, round: int, drawn: Sequence[int], state: RunState) -> dict[int, int]:
        """See Fleet. Waits for devices: without end for the first round's, and for one at all."""
        present = self._wait(drawn)
        connected = {number: present[number] for number in drawn if number in present}
        own = {}
        if self.job.method.aggregate == "none":
            for number in connected:
                kept = AdapterMessage(number, round, 0, state.kept.get(number, state.adapter))
                own[number] = encode_adapter(kept, 32)
        self._begun = True
        self._carried = self._overhead()
        self._know(connected.values())
        if self._measured is not None:
            self._measured.know({number: device.hello for number, device in connected.items()})
        self.link = RemoteLink(self.job, self._connected_devices, connected, own, self._timeouts)
        return {number: device.samples for number, device in connected.items()}

    def labels(self) -> SharedLabels:
        """See Fleet."""
        return self._labels

    def release(self, result: RoundResult, state: RunState) -> None:
        """See Fleet. Raises RunError where nobody has come through a round for some time."""
        came_through = [device for device in result.cohort if device not in result.lost]
        if self.job.method.aggregate == "none":
            for device, frame in self.link.upload(came_through).items():
                tensors = decode_adapter(frame).tensors
                state.kept[device] = {k: t.to(self.parts.model.compute) for k, t in tensors.items()}
        self.link.end(result.round, result.late)
        up, down = self._overhead()
        result.overhead_bytes = [up - self._carried[0], down - self._carried[1]]
        self._in_vain = 0 if came_through else self._in_vain + 1
        if self._in_vain == _HOPELESS:
            device, reason = next(iter(self.link.faults.items()))
            raise RunError(
                f"training: every device failed in {_HOPELESS} rounds on end, device {device} "
                f"because of this: {reason}"
            )

    def _wait(self, drawn: Sequence[int]) -> dict[int, ConnectedDevice]:
        """The devices there are, once they are enough to begin a round."""
        needed = self._timeouts.devices or self.job.devices.cohort
        until = time.monotonic() + self._timeouts.return_s if self._begun else math.inf
        said = -1
        while True:
            present = self._connected_devices.present()
            self._given_up -= present.keys()
            some = any(number in present for number in drawn)
            if some and len(present) + len(self._given_up) >= needed:
                return present
            if some and time.monotonic() > until:
                self._given_up = set(range(self.job.devices.count)) - present.keys()
                return present
            if len(present) != said:
                said = len(present)
                self._progress.say(f"waiting for devices: {said} of {needed} are there")
            self._connected_devices.wait_for_change(0.5)

    def _know(self, connected: Iterable[ConnectedDevice]) -> None:
        """Note what devices share of their labels.

        Accuracies of those with data of their own are weighted by it, or (not shared) by the test
        data's labels.
        """
        counts, shared = self.parts.counts, self._labels.counts
        for device in connected:
            labels = (device.ready.labels if device.ready else None) or []
            known = len(labels) == counts.shape[1] and any(labels)
            if known:
                shared[device.number] = labels
            if device.ready is not None and device.ready.own:
                tested = np.bincount(self.parts.test.labels, minlength=counts.shape[1])
                counts[device.number] = np.rint(labels) if known else tested

    def _overhead(self) -> tuple[int, int]:
        """Bytes so far that carrying frames took, up and down, messages included."""
        lanes = self._connected_devices.listener.traffic
        control = lanes[Lane.CONTROL]
        up = sum(lane.received_overhead_bytes for lane in lanes.values())
        down = sum(lane.sent_overhead_bytes for lane in lanes.values())
        return up + control.received_bytes, down + control.sent_bytes


def _measured(answer: Probed, round: int, cut: int, scored: bool) -> ActivationStatistics:
    """A device's answer to a probe. Raises NetworkError for another than the one due."""
    due = (answer.round, answer.cut) == (round, cut)
    if not due or scored != (answer.importance is not None):
        raise NetworkError("message: what activations are like was asked of another round or cut")
    curve = None if answer.importance is None else np.asarray(answer.importance, dtype=np.float64)
    return ActivationStatistics(curve, answer.spread, answer.mean_square)
