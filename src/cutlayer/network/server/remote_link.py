"""The devices of one round over a network: what training asks of them, as frames and messages."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.round_shape import batch_sizes
from cutlayer.errors import CutlayerError, NetworkError
from cutlayer.job import Job
from cutlayer.network.server.claims import Claims, far_off
from cutlayer.network.server.connected_device import ANSWERS, ConnectedDevice
from cutlayer.network.server.connected_devices import ConnectedDevices
from cutlayer.network.server.light_offers import LightOffers, Made
from cutlayer.network.server.timeouts import Deadline, Timeouts
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.messages import DeviceProgram, Probe, RoundBegin, RoundEnd
from cutlayer.settings.precision import Precision
from cutlayer.train.activation_summary import ActivationStatistics
from cutlayer.train.coding import codec_of
from cutlayer.train.exchange import BASIS, LOSS, Exchange, Payload
from cutlayer.train.link import Started
from cutlayer.train.opening import Opening
from cutlayer.train.stopwatch import Stopwatch

Answer = TypeVar("Answer")

# Seconds after the round's deadline in which adapters that were sent in time may still arrive, and
# in which devices are told that the round is over.
_GRACE_S = 5.0


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
        timeouts: Timeouts,
        *,
        own: Mapping[int, bytes] | None = None,
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
        self._deadline = Deadline(timeouts)
        self._round = -1

    @property
    def in_float32(self) -> set[int]:
        """See Link."""
        return {number for number, device in self.connected.items() if device.light is None}

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
        return {
            n
            for n, one in there.items()
            if basis in (one.basis, one.change_basis, *one.ways.values())
        }

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
                    change_basis=opening.change_basis is not None,
                    change_steps=opening.change_steps,
                    held_digest=opening.held_digest,
                    ways=list(opening.ways),
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
            if opening.change_basis is not None:
                await device.connection.send(Lane.DOWN, opening.change_basis)
                device.change_basis = codec_of(opening.change_basis).basis.fingerprint
            for way, way_basis in opening.ways.items():
                await device.connection.send(Lane.DOWN, way_basis)
                device.ways[way] = codec_of(way_basis).basis.fingerprint
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
                self._connected_devices.handout.add(
                    precision, [path for _, files in made for path in files]
                )
            found[number] = [program for program, _ in made]
        return found

    def receive(
        self, exchange: Exchange, step: int, devices: Sequence[int], watch: Stopwatch
    ) -> Mapping[int, Payload]:
        """See Link. Devices compute without being asked; this takes what they sent."""

        async def take(device: ConnectedDevice) -> Payload:
            steps = self._started(device.number).steps
            async with self._deadline.of_step(step, steps):
                if exchange == LOSS:
                    return await self._loss(device, step)
                return await device.connection.receive(Lane.UP)

        return self._each(devices, take)

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
        """Let go of the device."""
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

    def _each(
        self,
        devices: Sequence[int],
        act: Callable[[ConnectedDevice], Awaitable[Answer]],
        grace_s: float = 0.0,
    ) -> dict[int, Answer]:
        """What `act` returns for each device that does it before the round's deadline.

        grace_s: seconds that devices have if the deadline has passed.
        """
        patience_s = self._deadline.patience_s(grace_s)
        found = self._connected_devices.each([self.connected[n] for n in devices], act, patience_s)
        for number in devices:
            if number not in found:
                self.faults.setdefault(number, self.connected[number].connection.reason)
        return found


async def _send_basis(device: ConnectedDevice, basis: bytes) -> None:
    await device.connection.send(Lane.DOWN, basis)
    device.basis = codec_of(basis).basis.fingerprint
