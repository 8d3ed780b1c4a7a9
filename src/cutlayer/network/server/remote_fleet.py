"""The devices of a run over a network: what training asks of them, as frames and messages."""

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from cutlayer.allocate.decision import Decision
from cutlayer.errors import CutlayerError, NetworkError, RunError
from cutlayer.job import Job
from cutlayer.network.server.connected_devices import Reception, Seat
from cutlayer.network.server.measured_world import MeasuredWorld
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.messages import Probe, Probed, RoundBegin, RoundEnd
from cutlayer.planning.planning_input import Outlook
from cutlayer.record.checkpoint import State
from cutlayer.rounds.progress import Progress
from cutlayer.train.activation_statistics import Measured
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
class Patience:
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
        reception: Reception,
        seats: Mapping[int, Seat],
        own: Mapping[int, bytes] | None = None,
        patience: Patience = Patience(),
    ) -> None:
        self.job = job
        self.seats = dict(seats)
        self.faults: dict[int, str] = {}
        self._reception = reception
        self._own = own or {}
        self._patience = patience
        self._until = time.monotonic() + patience.round_s
        self._round = -1

    def measure(
        self, round: int, devices: Sequence[int], cut: int, scored: bool
    ) -> dict[int, Measured]:
        """See Link."""

        async def ask(seat: Seat) -> Measured:
            await seat.connection.tell(Probe(round, cut, scored))
            return _measured(await seat.next(seat.probes), round, cut, scored)

        return self._each(devices, ask)

    def begin(
        self, round: int, decisions: Mapping[int, Decision], frames: Mapping[int, bytes]
    ) -> dict[int, Started]:
        """See Link."""
        self._round = round

        async def start(seat: Seat) -> Started:
            frame = frames.get(seat.number, self._own.get(seat.number))
            started = self._started(seat)
            decided = vars(decisions[seat.number])
            await seat.connection.tell(
                RoundBegin(round, steps=started.steps, adapter=frame is not None, **decided)
            )
            if frame is not None:
                await seat.connection.send(Lane.DOWN, frame)
            return started

        return self._each(list(decisions), start)

    def forward(self, step: int, devices: Sequence[int], watch: Stopwatch) -> dict[int, bytes]:
        """See Link. The devices compute unasked; this takes what they sent."""
        return self._each(devices, lambda seat: seat.connection.receive(Lane.UP))

    def backward(self, frames: Mapping[int, bytes], watch: Stopwatch) -> None:
        """See Link."""

        async def send(seat: Seat) -> None:
            await seat.connection.send(Lane.DOWN, frames[seat.number])

        self._each(list(frames), send)

    def train_whole(self, step: int, devices: Sequence[int]) -> dict[int, float]:
        """See Link."""

        async def hear(seat: Seat) -> float:
            done = await seat.next(seat.losses)
            due = (done.round, done.step) == (self._round, step)
            if not due or done.loss is None or not math.isfinite(done.loss):
                raise NetworkError(f"message: a loss of {done.loss} was not due")
            return done.loss

        return self._each(devices, hear)

    def upload(self, devices: Sequence[int]) -> dict[int, bytes]:
        """See Link."""
        return self._each(devices, lambda seat: seat.connection.receive(Lane.UP))

    def reject(self, device: int, fault: CutlayerError) -> None:
        """Let go of the device."""
        self.faults[device] = str(fault)
        self._reception.let_go(self.seats[device], str(fault))

    def end(self, round: int, late: Sequence[int]) -> None:
        """Tell the devices that are left that the round is over."""

        async def tell(seat: Seat) -> None:
            await seat.connection.tell(RoundEnd(round, seat.number in late))

        self._each([n for n, seat in self.seats.items() if not seat.connection.over], tell)

    def _started(self, seat: Seat) -> Started:
        training = self.job.training
        batches = -(-seat.samples // training.batch_size)
        return Started(training.local_epochs * batches, seat.samples)

    def _each(
        self, devices: Sequence[int], act: Callable[[Seat], Awaitable[Answer]]
    ) -> dict[int, Answer]:
        patience = min(self._patience.answer_s, max(0.0, self._until - time.monotonic()))
        found = self._reception.each([self.seats[n] for n in devices], act, patience)
        for number in devices:
            if number not in found:
                self.faults.setdefault(number, self.seats[number].connection.reason)
        return found


class RemoteFleet:
    """Devices that have joined over the network (see rounds.Fleet).

    real: False to go by the job's world, as a simulation does.
    """

    def __init__(
        self,
        job: Job,
        parts: Parts,
        reception: Reception,
        patience: Patience,
        progress: Progress,
        *,
        real: bool = True,
    ) -> None:
        self.job, self.parts, self.real = job, parts, real
        self._reception, self._patience, self._progress = reception, patience, progress
        self.link = RemoteLink(job, reception, {}, {}, patience)
        self._labels = labels_of(job, parts)
        self._measured = MeasuredWorld(job, parts.model.spec) if job.world and real else None
        self.outlook: Outlook | None = self._measured
        self._begun = False
        self._given_up: set[int] = set()
        self._carried = (0, 0)
        self._in_vain = 0

    def gather(self, round: int, drawn: Sequence[int], state: State) -> dict[int, int]:
        """See Fleet. Waits for devices: without end for the first round's, and for one at all."""
        present = self._wait(drawn)
        seats = {number: present[number] for number in drawn if number in present}
        own = {}
        if self.job.method.aggregate == "none":
            for number in seats:
                kept = AdapterMessage(number, round, 0, state.kept.get(number, state.adapter))
                own[number] = encode_adapter(kept, 32)
        self._begun = True
        self._carried = self._overhead()
        self._know(seats.values())
        if self._measured is not None:
            self._measured.know({number: seat.hello for number, seat in seats.items()})
        self.link = RemoteLink(self.job, self._reception, seats, own, self._patience)
        return {number: seat.samples for number, seat in seats.items()}

    def labels(self) -> SharedLabels:
        """See Fleet."""
        return self._labels

    def release(self, result: RoundResult, state: State) -> None:
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

    def _wait(self, drawn: Sequence[int]) -> dict[int, Seat]:
        """The devices there are, once they are enough to begin a round."""
        needed = self._patience.devices or self.job.devices.cohort
        until = time.monotonic() + self._patience.return_s if self._begun else math.inf
        said = -1
        while True:
            present = self._reception.present()
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
            self._reception.wait_for_change(0.5)

    def _know(self, seats: Iterable[Seat]) -> None:
        """Note what devices share of their labels.

        Accuracies of those with data of their own are weighted by it, or (not shared) by the test
        data's labels.
        """
        counts, shared = self.parts.counts, self._labels.counts
        for seat in seats:
            labels = (seat.ready.labels if seat.ready else None) or []
            known = len(labels) == counts.shape[1] and any(labels)
            if known:
                shared[seat.number] = labels
            if seat.ready is not None and seat.ready.own:
                tested = np.bincount(self.parts.test.labels, minlength=counts.shape[1])
                counts[seat.number] = np.rint(labels) if known else tested

    def _overhead(self) -> tuple[int, int]:
        """Bytes so far that carrying frames took, up and down, messages included."""
        lanes = self._reception.listener.traffic
        control = lanes[Lane.CONTROL]
        up = sum(lane.received_overhead_bytes for lane in lanes.values())
        down = sum(lane.sent_overhead_bytes for lane in lanes.values())
        return up + control.received_bytes, down + control.sent_bytes


def _measured(answer: Probed, round: int, cut: int, scored: bool) -> Measured:
    """A device's answer to a probe. Raises NetworkError for another than the one due."""
    due = (answer.round, answer.cut) == (round, cut)
    if not due or scored != (answer.importance is not None):
        raise NetworkError("message: what activations are like was asked of another round or cut")
    curve = None if answer.importance is None else np.asarray(answer.importance, dtype=np.float64)
    return Measured(curve, answer.spread, answer.mean_square)
