"""How the server reaches the devices of a round: here in its own process, else over a network."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cutlayer.allocate.decision import Decision
from cutlayer.errors import CutlayerError
from cutlayer.train.activation_statistics import measure
from cutlayer.train.activation_summary import ActivationStatistics
from cutlayer.train.device import Device, stack_adapters
from cutlayer.train.exchange import BASIS, Exchange, Payload
from cutlayer.train.opening import Opening
from cutlayer.train.pool import Pool
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.wire.adapter_frames import encode_adapters


@dataclass(frozen=True)
class Started:
    """What a device answers at a round's start: its batches, and its samples in one epoch."""

    steps: int
    samples: int


class Link(Protocol):
    """The devices of a round, by number.

    A device that fails is missing in the answer, and the round goes on without it. believed:
    whether the devices are in this process, so that their adapters need no check against others.
    """

    @property
    def believed(self) -> bool:
        """Whether all devices are in this process."""
        ...

    @property
    def in_float32(self) -> Collection[int]:
        """The devices that can compute in no other numbers, since they run torch."""
        ...

    def measure(
        self, round: int, devices: Sequence[int], cut: int, scored: bool
    ) -> dict[int, ActivationStatistics]:
        """Statistics of the devices' activations, before the round is decided."""
        ...

    def having(self, devices: Sequence[int], basis: int) -> set[int]:
        """The devices that have the basis with this fingerprint."""
        ...

    def changed(self, devices: Sequence[int]) -> set[int]:
        """The devices whose data may have changed since earlier rounds."""
        ...

    def begin(
        self, round: int, decisions: Mapping[int, Decision], openings: Mapping[int, Opening]
    ) -> dict[int, Started]:
        """Start a round. openings: the frames with which each device begins."""
        ...

    def receive(
        self, exchange: Exchange, step: int, devices: Sequence[int], watch: Stopwatch
    ) -> Mapping[int, Payload]:
        """What each device sends up in an exchange of a step; all of them have one cut."""
        ...

    def send(
        self, exchange: Exchange, step: int, frames: Mapping[int, bytes], watch: Stopwatch
    ) -> None:
        """Send frames of an exchange down to devices that have sent something up in the step."""
        ...

    def upload(self, devices: Sequence[int]) -> dict[int, bytes]:
        """A frame with the adapter that each device trained."""
        ...

    def ask(self, frames: Mapping[int, bytes]) -> dict[int, bytes]:
        """Each device's answer to a question of a secure sum (secure_sum/messages.py)."""
        ...

    def reject(self, device: int, fault: CutlayerError) -> None:
        """Refuse what a device sent: raise `fault`, or disconnect the device."""
        ...


class LocalLink:
    """Devices in this process; they share the backbone and passes through it.

    drop_outs: the devices that are lost in this round, each with the share of its steps that it
    makes before.
    """

    believed = True
    in_float32: Collection[int] = ()

    def __init__(
        self, devices: Iterable[Device], drop_outs: Mapping[int, float] | None = None
    ) -> None:
        self.devices = {device.id: device for device in devices}
        self._drop_outs = drop_outs or {}
        self._pool = Pool([])

    def measure(
        self, round: int, devices: Sequence[int], cut: int, scored: bool
    ) -> dict[int, ActivationStatistics]:
        """See Link."""
        found = measure([self.devices[number] for number in devices], round, cut, scored)
        return dict(zip(devices, found, strict=True))

    def having(self, devices: Sequence[int], basis: int) -> set[int]:
        """See Link."""
        return {number for number in devices if self.devices[number].coding.has(basis)}

    def changed(self, devices: Sequence[int]) -> set[int]:
        """See Link."""
        return set()

    def begin(
        self, round: int, decisions: Mapping[int, Decision], openings: Mapping[int, Opening]
    ) -> dict[int, Started]:
        """See Link."""
        started = {}
        for number, decision in decisions.items():
            device, opening = self.devices[number], openings[number]
            device.coding.begin(opening)
            device.begin(round, decision, opening.adapter)
            started[number] = Started(device.steps, device.samples)
        # In the loop's order, so that devices with batches left are neighbours in a stack.
        stack_adapters(
            sorted((self.devices[d] for d in decisions), key=lambda device: -device.samples)
        )
        return started

    def receive(
        self, exchange: Exchange, step: int, devices: Sequence[int], watch: Stopwatch
    ) -> Mapping[int, Payload]:
        """See Link."""
        there = [number for number in devices if step < self._lost_at(number)]
        if not there:
            return {}
        self._take(there)
        return dict(zip(there, self._pool.send(exchange, step, watch), strict=True))

    def _lost_at(self, number: int) -> float:
        """The step at which a device is lost; infinite where it is not."""
        if number not in self._drop_outs:
            return math.inf
        return math.floor(self._drop_outs[number] * self.devices[number].steps)

    def send(
        self, exchange: Exchange, step: int, frames: Mapping[int, bytes], watch: Stopwatch
    ) -> None:
        """See Link."""
        if exchange == BASIS:  # a step's first exchange: its pool has not been made yet
            self._take(list(frames))
        self._pool.receive(exchange, step, frames, watch)

    def _take(self, devices: Sequence[int]) -> None:
        """Have the devices compute together."""
        wanted = [self.devices[number] for number in devices]
        if self._pool.devices != wanted:
            self._pool = Pool(wanted)

    def upload(self, devices: Sequence[int]) -> dict[int, bytes]:
        """See Link."""
        messages = [self.devices[number].to_upload() for number in devices]
        if not messages:
            return {}
        bits = self.devices[devices[0]].job.method.adapter_bits
        return dict(zip(devices, encode_adapters(messages, bits), strict=True))

    def ask(self, frames: Mapping[int, bytes]) -> dict[int, bytes]:
        """See Link."""
        return {number: self.devices[number].answer(frame) for number, frame in frames.items()}

    def end(self) -> None:
        """End the round: no device keeps its adapter, its optimiser or a graph."""
        self._pool = Pool([])
        for device in self.devices.values():
            device.end()

    def reject(self, device: int, fault: CutlayerError) -> None:
        """Raise the fault: a device of this process fails by an error of ours or of the job."""
        raise fault
