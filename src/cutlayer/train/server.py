"""The edge server: sends out the global adapter of a run and averages adapters, round by round."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cutlayer.allocate.decision import Decision
from cutlayer.errors import FrameError
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter
from cutlayer.train.adapter_upload import upload_steps
from cutlayer.train.aggregate import weighted_average
from cutlayer.train.compute import float64
from cutlayer.train.exchange import trained_names
from cutlayer.train.link import Link
from cutlayer.train.noise import noisy_average
from cutlayer.train.opening import Opening
from cutlayer.train.result import Trained
from cutlayer.train.robust_average import combined, scaled_to_median
from cutlayer.train.server_coding import ServerCoding
from cutlayer.train.server_middle import ServerMiddle
from cutlayer.train.server_part import ServerPart
from cutlayer.train.task import task_of
from cutlayer.train.upload_checks import far_updates, read_adapter
from cutlayer.wire.adapter_frames import encode_adapters
from cutlayer.wire.messages import AdapterMessage


class Server:
    """Holds the global adapter, sends it out and averages the adapters that come back.

    adapter: the global adapter of the whole model (before the cut, after it, and the head). bare:
    how many first blocks carry no adapter if devices are frozen (see bare_blocks.py). part: the
    server's side of the steps of the present round. coding: the codec of activations, over all
    rounds.
    """

    def __init__(
        self,
        job: Job,
        model: CutModel,
        adapter: Adapter,
        bare: int = 0,
        coding: ServerCoding | None = None,
    ) -> None:
        self.job = job
        self.model = model
        self.adapter = adapter
        self.bare = bare
        self.part: ServerPart
        self.coding = coding or ServerCoding(job, model.spec)
        self._task = task_of(job, model.spec)
        self._round = -1

    def device_names(self, decision: Decision) -> tuple[str, ...]:
        """The tensors of the adapter that a device with this decision trains."""
        names = trained_names(self.job.method, self.model, decision.cut)
        return tuple(name for name in names if name in self.adapter)

    def broadcasts(self, round: int, decisions: Mapping[int, Decision]) -> dict[int, bytes]:
        """Each device's part of the global adapter as a frame; none for devices that train nothing.

        It is encoded only once for all devices of one cut.
        """
        shares: dict[tuple[str, ...], Adapter] = {}
        messages = []
        for device, decision in decisions.items():
            names = self.device_names(decision)
            if names not in shares:
                shares[names] = {name: self.adapter[name] for name in names}
            if names:
                messages.append(AdapterMessage(device, round, 0, shares[names]))
        frames = encode_adapters(messages, self.job.method.adapter_bits)
        return {one.device: frame for one, frame in zip(messages, frames, strict=True)}

    def openings(
        self, round: int, decisions: Mapping[int, Decision], link: Link
    ) -> dict[int, Opening]:
        """The frames with which each device begins a round, or a turn of it."""
        coding = self.coding
        for device in link.changed(list(decisions)):
            coding.forget(device)
        coding.begin(decisions)
        having: dict[int | None, set[int]] = {None: set()}
        for cut in sorted({one.cut for one in decisions.values()}):
            devices = [device for device, one in decisions.items() if one.cut == cut]
            for basis in coding.fingerprints(cut):
                if basis is not None:
                    having[basis] = link.having(devices, basis)
        averages = self.job.method.aggregate != "none"
        broadcasts = self.broadcasts(round, decisions) if averages else {}
        openings = {
            device: Opening(
                broadcasts.get(device),
                None
                if device in having[coding.fingerprint(decision.cut)]
                else coding.basis(decision.cut),
                coding.plain_steps(decision.cut),
                coding.held(device),
                {
                    way.name: frame
                    for way, one in coding.ways.items()
                    if (frame := one.basis(decision.cut)) is not None
                    and device not in having[one.fingerprint(decision.cut)]
                },
            )
            for device, decision in decisions.items()
        }
        if (changes := coding.changes) is not None:
            for device, opening in openings.items():
                cut = decisions[device].cut
                has = device in having[changes.fingerprint(cut)]
                openings[device] = replace(
                    opening,
                    change_basis=None if has else changes.basis(cut),
                    change_steps=changes.steps(cut),
                    held_digest=changes.digest(device),
                )
        return openings

    def begin(
        self, round: int, decisions: Mapping[int, Decision], steps: Mapping[int, int]
    ) -> None:
        """Start a round, or a turn of it, with devices that have started it.

        steps: of each device in the round.
        """
        self._round = round
        kind = ServerMiddle if self.job.has_tail else ServerPart
        self.part = kind(
            self.job,
            self.model,
            self._task,
            self.adapter,
            round,
            decisions,
            steps,
            self.coding,
            self.bare,
        )

    def read_upload(self, device: int, frame: bytes) -> Adapter:
        """The adapter of a device's upload. Raises FrameError for any but the one due."""
        due = self.due(self.part.decisions[device])
        return read_adapter(frame, device, self._round, due, self.model.compute)

    def far_updates(
        self, devices: Sequence[int], uploads: Mapping[int, Adapter]
    ) -> dict[int, FrameError]:
        """The devices whose upload or server adapter moved too far to be averaged, and why."""
        trained = {device: self.part.adapters.after_cut(device) for device in devices}
        # With unit device, no device's change may decide whether another's is refused.
        apart = self.job.privacy.unit == "device"
        return far_updates(self.adapter, trained, apart) | far_updates(self.adapter, uploads, apart)

    def due(self, decision: Decision) -> Adapter:
        """The tensors that a device with this decision trains, as they are before the average."""
        return {name: self.adapter[name] for name in self.device_names(decision)}

    def collect(
        self, trained: Mapping[int, Trained], change: Adapter | None = None
    ) -> dict[int, float]:
        """Average the adapters of the devices that count into the global adapter.

        Sums run in the order of the devices' numbers, wherever each was trained. change: the mean
        change of the devices, if a secure sum gave it instead of uploads. Returns, for each update
        that was scaled down, how many times larger than its bound it was.
        """
        own, shared = {}, {}
        excess: dict[int, float] = {}
        averaged = self.job.method.server_adapter == "averaged"
        for device in sorted(trained):
            part, upload = trained[device].after_cut, trained[device].upload
            own[device], shared[device] = (part | upload, {}) if averaged else (upload, part)
            for one in reversed(upload_steps(self.job.training, self.model.trained)):
                own[device], times = one.on_server(self.adapter, own[device])
                excess[device] = max(times, excess.get(device, 1.0))
        trust = self.job.trust
        if trust.clip_to_median is not None:
            own, found = scaled_to_median(
                self.adapter, own, trust.clip_to_median, self.model.trained
            )
            excess |= found
        if self.job.privacy.unit == "device":
            average, found = noisy_average(
                self.adapter, own, self.job, self._round, self.model.trained
            )
            excess |= found
        else:
            joined = {device: shared[device] | own[device] for device in own}
            weights = {device: trained[device].weight for device in own}
            average = combined(joined, weights, trust)
        for name, values in (change or {}).items():
            average[name] = (float64(self.adapter[name]) + values).to(self.adapter[name])
        self.adapter = {
            name: average[name].to(tensor.device) if name in average else tensor
            for name, tensor in self.adapter.items()
        }
        return {device: times for device, times in excess.items() if times > 1}

    def blend(self, trained: Adapter, share: float) -> None:
        """Mix in the adapter that the server trained itself: w = (1 - share) w + share trained.

        Tensors that it did not train stay the same.
        """
        mine = {name: self.adapter[name] for name in trained}
        other = {name: trained[name].to(tensor.device) for name, tensor in mine.items()}
        self.adapter = self.adapter | weighted_average([mine, other], [1 - share, share])
