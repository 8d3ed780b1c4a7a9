"""How the server reaches the devices of a round: in its own process here, or over a network."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cutlayer.allocate.decision import Decision
from cutlayer.errors import CutlayerError
from cutlayer.train import device as on_device
from cutlayer.train.activation_statistics import ActivationStatistics, measure
from cutlayer.train.device import Device
from cutlayer.train.stopwatch import Stopwatch


@dataclass(frozen=True)
class Started:
    """What a device answers at a round's start: its batches, and the samples of an epoch."""

    steps: int
    samples: int


class Link(Protocol):
    """The devices of a round, by number.

    A device that fails is left out of the answer; the round goes on without it. believed: what
    devices send is our own, and need not be held against the cohort.
    """

    @property
    def believed(self) -> bool:
        """Whether all devices are our own."""
        ...

    def measure(
        self, round: int, devices: Sequence[int], cut: int, scored: bool
    ) -> dict[int, ActivationStatistics]:
        """What the devices' activations are like, before the round is decided."""
        ...

    def begin(
        self, round: int, decisions: Mapping[int, Decision], frames: Mapping[int, bytes]
    ) -> dict[int, Started]:
        """Start a round; devices without a frame go on with the adapter they have."""
        ...

    def forward(self, step: int, devices: Sequence[int], watch: Stopwatch) -> dict[int, bytes]:
        """A frame of activations of each device's batch; the devices have one cut."""
        ...

    def backward(self, frames: Mapping[int, bytes], watch: Stopwatch) -> None:
        """Gradient frames back to the devices that sent activations."""
        ...

    def train_whole(self, step: int, devices: Sequence[int]) -> dict[int, float]:
        """One step of devices that run the whole model: each one's loss."""
        ...

    def upload(self, devices: Sequence[int]) -> dict[int, bytes]:
        """A frame with the adapter that each device trained."""
        ...

    def reject(self, device: int, fault: CutlayerError) -> None:
        """What a device sent will not do: raise `fault`, or let go of the device."""
        ...


class LocalLink:
    """Devices in this process; they share the backbone and passes through it."""

    believed = True

    def __init__(self, devices: Iterable[Device]) -> None:
        self.devices = {device.id: device for device in devices}

    def measure(
        self, round: int, devices: Sequence[int], cut: int, scored: bool
    ) -> dict[int, ActivationStatistics]:
        """See Link."""
        found = measure([self.devices[number] for number in devices], round, cut, scored)
        return dict(zip(devices, found, strict=True))

    def begin(
        self, round: int, decisions: Mapping[int, Decision], frames: Mapping[int, bytes]
    ) -> dict[int, Started]:
        """See Link."""
        started = {}
        for number, decision in decisions.items():
            device = self.devices[number]
            device.begin(round, decision, frames.get(number))
            started[number] = Started(device.steps, device.samples)
        return started

    def forward(self, step: int, devices: Sequence[int], watch: Stopwatch) -> dict[int, bytes]:
        """See Link."""
        frames = on_device.forward([self.devices[number] for number in devices], step, watch)
        return dict(zip(devices, frames, strict=True))

    def backward(self, frames: Mapping[int, bytes], watch: Stopwatch) -> None:
        """See Link."""
        devices = [self.devices[number] for number in frames]
        on_device.backward(devices, list(frames.values()), watch)

    def train_whole(self, step: int, devices: Sequence[int]) -> dict[int, float]:
        """See Link."""
        losses = on_device.train_whole([self.devices[number] for number in devices], step)
        return dict(zip(devices, losses, strict=True))

    def upload(self, devices: Sequence[int]) -> dict[int, bytes]:
        """See Link."""
        return {number: self.devices[number].upload() for number in devices}

    def reject(self, device: int, fault: CutlayerError) -> None:
        """Raises: a device of one's own does not fail by itself."""
        raise fault
