"""The devices of a run over a network, from round to round: who is there, and who was lost."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cutlayer.errors import FrameError, RunError
from cutlayer.job import Job
from cutlayer.model.lora import Adapter
from cutlayer.network.server.arrivals import Arrivals
from cutlayer.network.server.claims import Claims
from cutlayer.network.server.connected_device import ConnectedDevice
from cutlayer.network.server.connected_devices import ConnectedDevices
from cutlayer.network.server.light_offers import LightOffers
from cutlayer.network.server.measured_world import KnownDevice, MeasuredWorld
from cutlayer.network.server.remote_link import RemoteLink
from cutlayer.network.server.timeouts import Timeouts
from cutlayer.network.transport.limits import Lane
from cutlayer.planning.known.planning_input import PlanningSource
from cutlayer.record.checkpoint import RunState
from cutlayer.record.told_devices import ToldDevice, read_told, write_told
from cutlayer.record.writing import writing
from cutlayer.rounds.progress import Progress
from cutlayer.train.label_sharing import SharedLabels
from cutlayer.train.parts import Parts, labels_of
from cutlayer.train.result import RoundResult, Trained
from cutlayer.train.round import Turn, train_devices
from cutlayer.train.server_coding import ServerCoding
from cutlayer.train.upload_checks import read_adapter
from cutlayer.wire.adapter_frames import encode_adapter
from cutlayer.wire.messages import AdapterMessage

# After this many rounds in a row in which every device failed, the run ends with an error.
_HOPELESS = 3


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
        self._connected_devices, self._timeouts = connected_devices, timeouts
        self._progress = progress
        self._arrivals = Arrivals(job.devices, connected_devices, timeouts, progress, light)
        self._claims = Claims(job, parts)
        self.link = RemoteLink(job, connected_devices, {}, self._claims, timeouts)
        self._labels = labels_of(job, parts)
        self._measured = MeasuredWorld(job, parts.model.spec) if job.world and real else None
        self.planning_source: PlanningSource | None = self._measured
        self._carried = (0, 0)
        self._in_vain = 0
        self._data: dict[int, int | None] = {}

    def gather(self, round: int, drawn: Sequence[int], state: RunState) -> dict[int, int]:
        """See Fleet. Waits for devices; without limit for the first round, or if none is there."""
        present = self._arrivals.wait(drawn, self.link.faults)
        connected = {number: present[number] for number in drawn if number in present}
        own = {}
        if self.job.method.aggregate == "none":
            for number in connected:
                kept = AdapterMessage(number, round, 0, state.kept.get(number, state.adapter))
                own[number] = encode_adapter(kept, 32)
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
            self._timeouts,
            own=own,
            changed=self._know_data(connected),
            light=self._light,
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
        self._arrivals.tell_departures(self.link.faults)
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
