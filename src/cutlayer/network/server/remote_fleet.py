"""The devices of a run over a network: what training asks of them, as frames and messages."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.round_shape import batch_sizes
from cutlayer.errors import CutlayerError, FrameError, NetworkError, RefusedError, RunError
from cutlayer.job import Job
from cutlayer.model.lora import Adapter
from cutlayer.network.server.claims import Claims, far_off
from cutlayer.network.server.connected_devices import (
    ANSWERS,
    ConnectedDevice,
    ConnectedDevices,
)
from cutlayer.network.server.light_offers import LightOffers, Made
from cutlayer.network.server.measured_world import KnownDevice, MeasuredWorld
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.messages import DeviceProgram, Probe, RoundBegin, RoundEnd
from cutlayer.planning.known.planning_input import PlanningSource
from cutlayer.record.checkpoint import RunState
from cutlayer.record.told_devices import ToldDevice, read_told, write_told
from cutlayer.record.writing import writing
from cutlayer.rounds.progress import Progress
from cutlayer.train.activation_summary import ActivationStatistics
from cutlayer.train.coding import codec_of
from cutlayer.train.exchange import BASIS, LOSS, Exchange, Payload
from cutlayer.train.label_sharing import SharedLabels
from cutlayer.train.link import Started
from cutlayer.train.opening import Opening
from cutlayer.train.parts import Parts, labels_of
from cutlayer.train.result import RoundResult, Trained
from cutlayer.train.round import Turn, train_devices
from cutlayer.train.server_coding import ServerCoding
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.train.upload_checks import read_adapter
from cutlayer.wire.codec import encode_adapter
from cutlayer.wire.messages import AdapterMessage
from cutlayer.wire.program_ports import Precision

Answer = TypeVar("Answer")

# After this many rounds in a row in which every device failed, the run ends with an error.
_HOPELESS = 3
# Seconds after the round's deadline in which adapters that were sent in time may still arrive, and
# in which devices are told that the round is over.
_GRACE_S = 5.0
# Step s of S must be done after this share of the round's time, and s / S of the rest.
_FIRST_SHARE = 0.25
# A sentence names at most this many missing devices.
_NAMED = 8


@dataclass(frozen=True)
class Timeouts:
    """How long a run waits for its devices, in seconds."""

    devices: int | None = None
    """How many devices a round waits for before it begins; None: as many as train in one round."""

    begin_s: float = math.inf
    """Seconds to wait before the first round, counted from the first device's arrival; then the run
    begins with the devices that are there.
    """

    answer_s: float = 120.0
    """Seconds that a device has for one answer; one that takes longer is lost for the round."""

    return_s: float = 30.0
    """Seconds to wait, before each later round, for lost devices to come back."""

    round_s: float = math.inf
    """Seconds for a whole round; a device that is not done by then, or is too far behind to be done
    by then, is lost for the round.
    """

    farewell_s: float = 60.0
    """Seconds to wait at the end for devices that are away, so that they learn of the end."""


class RemoteLink:
    """The devices of one round (see Link); a device that loses its connection is out of the round.

    samples: by device, how many it trains on in an epoch. own: by device, the frame with its own
    adapter, which it is sent if there is no broadcast. changed: devices whose data may have
    changed. light: makes the programs of light devices.
    """

    believed = False

    def __init__(
        self,
        job: Job,
        connected_devices: ConnectedDevices,
        connected: Mapping[int, ConnectedDevice],
        claims: Claims,
        own: Mapping[int, bytes] | None = None,
        timeouts: Timeouts = Timeouts(),
        changed: Collection[int] = (),
        light: LightOffers | None = None,
    ) -> None:
        self.job, self._claims = job, claims
        self.samples = claims.samples(
            {n: device.ready for n, device in connected.items() if device.ready is not None}
        )
        self.connected = dict(connected)
        self.faults: dict[int, str] = {}
        self._connected_devices = connected_devices
        self._own, self._changed, self._light = own or {}, changed, light
        self._timeouts = timeouts
        self._until = time.monotonic() + timeouts.round_s
        self._round = -1

    def measure(
        self, round: int, devices: Sequence[int], cut: int, scored: bool
    ) -> dict[int, ActivationStatistics]:
        """See Link."""

        programs = self._programs(
            devices, lambda light, precision, _: light.of_probe(precision, cut, scored)
        )

        async def ask(device: ConnectedDevice) -> ActivationStatistics:
            due = programs[device.number]
            await device.connection.tell(Probe(round, cut, scored, due))
            answer = await device.next(device.probes)
            return self._claims.statistics(device.number, answer, (round, cut, scored))

        found = self._each(list(programs), ask)
        for number, fault in far_off(found).items():
            self.reject(number, fault)
            del found[number]
        return found

    def having(self, devices: Sequence[int], basis: int) -> set[int]:
        """See Link. A device says which basis it has when it joins; later ones it was sent here."""
        there = {number: self.connected[number] for number in devices}
        return {n for n, one in there.items() if basis in (one.basis, one.gradient_basis)}

    def changed(self, devices: Sequence[int]) -> set[int]:
        """See Link. A device's own data may have changed if it was started again."""
        return {number for number in devices if number in self._changed}

    def begin(
        self, round: int, decisions: Mapping[int, Decision], openings: Mapping[int, Opening]
    ) -> dict[int, Started]:
        """See Link."""
        self._round = round
        programs = self._programs(
            list(decisions),
            lambda light, precision, number: light.of_round(
                precision, decisions[number], openings[number].plain_steps
            ),
        )

        async def start(device: ConnectedDevice) -> Started:
            opening = openings[device.number]
            adapter = opening.adapter or self._own.get(device.number)
            started = self._started(device.number)
            if not self.job.method.split:  # it may run ahead of slower ones, and reports each step
                device.losses = asyncio.Queue(max(ANSWERS, started.steps))
            fewer = device.ready is not None and started.samples < device.ready.samples
            await device.connection.tell(
                RoundBegin(
                    round,
                    steps=started.steps,
                    adapter=adapter is not None,
                    basis=opening.basis is not None,
                    held=opening.held is not None,
                    plain_steps=opening.plain_steps,
                    gradient_basis=opening.gradient_basis is not None,
                    programs=programs[device.number],
                    samples=started.samples if fewer else None,
                    **vars(decisions[device.number]),
                )
            )
            if adapter is not None:
                await device.connection.send(Lane.DOWN, adapter)
            if opening.basis is not None:
                await _send_basis(device, opening.basis)
            if opening.held is not None:
                await device.connection.send(Lane.DOWN, opening.held)
            if opening.gradient_basis is not None:
                await device.connection.send(Lane.DOWN, opening.gradient_basis)
                device.gradient_basis = codec_of(opening.gradient_basis).basis.fingerprint
            return started

        return self._each(list(programs), start)

    def _programs(
        self, devices: Sequence[int], make: Callable[[LightOffers, Precision, int], Made]
    ) -> dict[int, list[DeviceProgram]]:
        """The programs that each device is to run; none if it has torch.

        A device whose program cannot be made is disconnected, and left out.
        """
        found: dict[int, list[DeviceProgram]] = {}
        for number in devices:
            precision = self.connected[number].light
            made: Made = []
            if precision is not None and self._light is not None:
                try:
                    made = make(self._light, precision, number)
                except CutlayerError as fault:
                    self.reject(number, fault)
                    continue
                self._connected_devices.hand_out(precision, [path for _, path in made])
            found[number] = [program for program, _ in made]
        return found

    def receive(
        self, exchange: Exchange, step: int, devices: Sequence[int], watch: Stopwatch
    ) -> Mapping[int, Payload]:
        """See Link. Devices compute without being asked; this takes what they sent."""
        if exchange == LOSS:
            return self._each(devices, self._paced(step, lambda one: self._loss(one, step)))
        return self._each(devices, self._paced(step, lambda one: one.connection.receive(Lane.UP)))

    async def _loss(self, device: ConnectedDevice, step: int) -> float:
        done = await device.next(device.losses)
        due = (done.round, done.step) == (self._round, step)
        if not due or done.loss is None or not math.isfinite(done.loss):
            raise NetworkError(
                f"message: device {device.number} sent a loss of {done.loss} of round "
                f"{done.round}, step {done.step} instead of one of round {self._round}, step {step}"
            )
        return done.loss

    def send(
        self, exchange: Exchange, step: int, frames: Mapping[int, bytes], watch: Stopwatch
    ) -> None:
        """See Link."""

        async def send(device: ConnectedDevice) -> None:
            if exchange == BASIS:
                await _send_basis(device, frames[device.number])
            else:
                await device.connection.send(Lane.DOWN, frames[device.number])

        self._each(list(frames), send)

    def upload(self, devices: Sequence[int]) -> dict[int, bytes]:
        """See Link."""
        return self._each(devices, lambda device: device.connection.receive(Lane.UP), _GRACE_S)

    def ask(self, frames: Mapping[int, bytes]) -> dict[int, bytes]:
        """See Link."""

        async def ask(device: ConnectedDevice) -> bytes:
            await device.connection.send(Lane.DOWN, frames[device.number])
            return bytes(await device.connection.receive(Lane.UP))

        return self._each(list(frames), ask, _GRACE_S)

    def reject(self, device: int, fault: CutlayerError) -> None:
        """See Link. Disconnects the device."""
        self.faults[device] = str(fault)
        self._connected_devices.let_go(self.connected[device], str(fault))

    def end(self, round: int, late: Sequence[int]) -> None:
        """Tell the remaining devices that the round is over."""

        async def tell(device: ConnectedDevice) -> None:
            await device.connection.tell(RoundEnd(round, device.number in late))

        left = [n for n, device in self.connected.items() if not device.connection.over]
        self._each(left, tell, _GRACE_S)

    def _started(self, number: int) -> Started:
        samples = self.samples[number]
        return Started(len(batch_sizes(samples, self.job.training)), samples)

    def _paced(
        self, step: int, act: Callable[[ConnectedDevice], Awaitable[Answer]]
    ) -> Callable[[ConnectedDevice], Awaitable[Answer]]:
        """`act`, but it fails if a device is too far behind to be done by the round's deadline.

        The others wait for that device at every step, so none of them would be done in time.
        """
        if not math.isfinite(self._timeouts.round_s):
            return act

        async def in_time(device: ConnectedDevice) -> Answer:
            steps = self._started(device.number).steps
            share = _FIRST_SHARE + (1 - _FIRST_SHARE) * (step + 1) / steps
            behind_s = self._timeouts.round_s * (1 - share)
            left_s = self._until - behind_s - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    return await act(device)
            except TimeoutError:
                raise NetworkError(
                    f"deadline: step {step + 1} of {steps} was not done after "
                    f"{100 * share:.0f} % of the {self._timeouts.round_s:g} s of the round"
                ) from None

        return in_time

    def _each(
        self,
        devices: Sequence[int],
        act: Callable[[ConnectedDevice], Awaitable[Answer]],
        grace_s: float = 0.0,
    ) -> dict[int, Answer]:
        """What `act` returns for each device that does it before the round's deadline.

        grace_s: seconds that devices have if the deadline has passed.
        """
        left_s = max(grace_s, self._until - time.monotonic())
        patience_s = min(self._timeouts.answer_s, left_s)
        found = self._connected_devices.each([self.connected[n] for n in devices], act, patience_s)
        for number in devices:
            if number not in found:
                self.faults.setdefault(number, self.connected[number].connection.reason)
        return found


async def _send_basis(device: ConnectedDevice, basis: bytes) -> None:
    await device.connection.send(Lane.DOWN, basis)
    device.basis = codec_of(basis).basis.fingerprint


class RemoteFleet:
    """Devices that have joined over the network (see `Fleet` in rounds/loop.py).

    folder: the run folder, where the names, samples and labels that devices report are written.
    real: False to allocate and time rounds by the job's world, as a simulation does. light: makes
    the programs of light devices; None: light devices are refused.
    """

    def __init__(
        self,
        folder: Path,
        job: Job,
        parts: Parts,
        connected_devices: ConnectedDevices,
        timeouts: Timeouts,
        progress: Progress,
        *,
        real: bool = True,
        light: LightOffers | None = None,
    ) -> None:
        self.job, self.parts, self.real = job, parts, real
        self._light = light
        self._folder = folder
        self._told = read_told(folder, job.devices.count)
        self._connected_devices, self._timeouts, self._progress = (
            connected_devices,
            timeouts,
            progress,
        )
        self._claims = Claims(job, parts)
        self.link = RemoteLink(job, connected_devices, {}, self._claims, {}, timeouts)
        self._labels = labels_of(job, parts)
        self._measured = MeasuredWorld(job, parts.model.spec) if job.world and real else None
        self.planning_source: PlanningSource | None = self._measured
        self._begun = False
        self._given_up: set[int] = set()
        self._carried = (0, 0)
        self._in_vain = 0
        self._data: dict[int, int | None] = {}

    def gather(self, round: int, drawn: Sequence[int], state: RunState) -> dict[int, int]:
        """See Fleet. Waits for devices; without limit for the first round, or if none is there."""
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
            self._measured.know(
                {
                    n: KnownDevice(one.hello.flops_per_s, one.hello.memory_bytes, one.rates)
                    for n, one in connected.items()
                    if one.rates is not None
                }
            )
        self.link = RemoteLink(
            self.job,
            self._connected_devices,
            connected,
            self._claims,
            own,
            self._timeouts,
            self._know_data(connected),
            self._light,
        )
        return dict(self.link.samples)

    def _know_data(self, connected: Mapping[int, ConnectedDevice]) -> set[int]:
        """Note what data the devices have; returns the devices whose data may have changed."""
        now = {number: one.ready.data for number, one in connected.items() if one.ready}
        # A new server does not know which data its devices had under an earlier server.
        changed = {number for number, data in now.items() if data != self._data.get(number)}
        self._data |= now
        return changed

    def labels(self) -> SharedLabels:
        """See Fleet."""
        return self._labels

    def train_turn(self, turn: Turn) -> dict[int, Trained]:
        """See Fleet."""
        return train_devices(turn)

    def release(self, result: RoundResult, state: RunState, coding: ServerCoding) -> None:
        """See Fleet. Raises RunError if every device failed in several rounds in a row."""
        state.coding = coding.saved()
        if coding.cache is not None:
            coding.cache.leave_unsaved(n for n, data in self._data.items() if data is not None)
        came_through = [device for device in result.cohort if device not in result.lost]
        if self.job.method.aggregate == "none":
            state.kept |= self._keep(result, came_through, state)
        self.link.end(result.round, result.late)
        came_through = [device for device in came_through if device not in result.lost]
        self._tell_departures()
        for device in result.lost:
            reason = self.link.faults.get(device, "")
            self._progress.say(f"round {result.round + 1}: device {device} was lost: {reason}")
        up, down = self._overhead()
        result.overhead_bytes = [up - self._carried[0], down - self._carried[1]]
        self._in_vain = 0 if came_through else self._in_vain + 1
        if self._in_vain == _HOPELESS:
            device, reason = next(iter(self.link.faults.items()))
            raise RunError(
                f"training: every device failed in {_HOPELESS} rounds in a row, device {device} "
                f"because of this: {reason}"
            )

    def _keep(
        self, result: RoundResult, devices: Sequence[int], state: RunState
    ) -> dict[int, Adapter]:
        """The adapters that devices keep for themselves; one with an invalid upload is lost."""
        kept = {}
        frames, compute = self.link.upload(devices), self.parts.model.compute
        for device in devices:
            try:
                if device in frames:
                    kept[device] = read_adapter(
                        frames[device], device, result.round, state.adapter, compute
                    )
            except FrameError as fault:
                self.link.reject(device, fault)
            if device not in kept:
                result.lost.append(device)
        return kept

    def _tell_departures(self) -> None:
        """Say which devices are gone and why; those lost in this round are reported at its end."""
        for gone in self._connected_devices.departures():
            if gone.number not in self.link.faults:
                self._progress.say(f"device {gone.number} ({gone.name}) is gone: {gone.reason}")

    def _wait(self, drawn: Sequence[int]) -> dict[int, ConnectedDevice]:
        """The devices that are there, once they are enough to begin a round."""
        needed = self._timeouts.devices or self.job.devices.cohort
        patience_s = self._timeouts.return_s if self._begun else self._timeouts.begin_s
        # The wait for further devices begins once the first device is there.
        until = time.monotonic() + patience_s if self._begun else math.inf
        said: set[int] | None = None
        while True:
            self._make_light()
            present = self._connected_devices.present()
            self._tell_departures()
            self._given_up -= present.keys()
            away = (self._given_up | self._connected_devices.turned_away()) - present.keys()
            some = any(number in present for number in drawn)
            if some and len(present) + len(away) >= needed:
                return present
            if some and until == math.inf:
                until = time.monotonic() + patience_s
            if some and time.monotonic() > until:
                self._given_up = set(range(self.job.devices.count)) - present.keys()
                return present
            if present.keys() != said:
                said = set(present)
                self._progress.say(self._waiting(present, needed, until - time.monotonic()))
            self._connected_devices.wait_for_change(0.5)

    def _make_light(self) -> None:
        """Make the programs for which light devices that have just joined wait."""
        for precision, wanted in self._connected_devices.light_wanted().items():
            assert self._light is not None
            self._progress.say(f"making the programs of light devices, in {precision}")
            try:
                offer = self._light.offer(precision)
            except CutlayerError as error:
                self._progress.say(str(error))
                wanted.set_exception(RefusedError(str(error)))
                continue
            self._connected_devices.hand_out(precision, offer.files)
            wanted.set_result(offer)

    def _waiting(self, present: Mapping[int, ConnectedDevice], needed: int, left_s: float) -> str:
        """What the run waits for, as a sentence."""
        names = self._connected_devices.names()
        missing = [
            f"{number} ({names[number]})" if number in names else str(number)
            for number in range(self.job.devices.count)
            if number not in present
        ]
        shown = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        limit = f" for {left_s:.0f} s more" if math.isfinite(left_s) else ""
        return f"waiting for devices{limit}: {len(present)} of {needed} are there, missing: {shown}"

    def _know(self, connected: Iterable[ConnectedDevice]) -> None:
        """Note the labels that devices share, and write down what they reported of themselves.

        The accuracy of a device with data of its own (Row.label_mix_accuracy) is weighted by the
        labels that it shared, or by those of the test data where it shared none.
        """
        counts = self.parts.counts
        told = dict(self._told)
        for device in connected:
            if device.ready is None:
                continue
            name, samples = device.connection.name, device.ready.samples
            if not device.ready.own:  # the server knows the labels of such a device itself
                made = counts.of([device.number])[0].tolist()
                told[device.number] = ToldDevice(name, samples, made)
                continue
            told[device.number] = ToldDevice(name, samples, None)
            labels = device.ready.labels if self.job.generated is not None else None
            if labels is not None and any(labels):
                self._labels.tell(device.number, labels)
                whole = np.rint(labels).astype(np.int64)
                counts.note(device.number, whole)
                told[device.number] = ToldDevice(name, samples, whole.tolist())
            else:
                tested = np.bincount(self.parts.test.labels, minlength=counts.classes)
                counts.note(device.number, tested)
        if told != self._told:
            self._told = told
            with writing(self._folder):
                write_told(self._folder, told)

    def _overhead(self) -> tuple[int, int]:
        """Bytes up and down so far besides the frames: messages, chunk headers, credits."""
        lanes = self._connected_devices.listener.traffic
        control = lanes[Lane.CONTROL]
        up = sum(lane.received_overhead_bytes for lane in lanes.values())
        down = sum(lane.sent_overhead_bytes for lane in lanes.values())
        return up + control.received_bytes, down + control.sent_bytes
