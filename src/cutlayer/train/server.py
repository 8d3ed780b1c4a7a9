"""The edge server: the global adapter of a run, handed out and averaged round by round."""

from collections.abc import Mapping, Sequence

from cutlayer.allocate.decision import Decision
from cutlayer.errors import FrameError
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter
from cutlayer.train.adapter_upload import upload_steps
from cutlayer.train.aggregate import average_by_samples, weighted_average
from cutlayer.train.exchange import trained_names
from cutlayer.train.link import Link
from cutlayer.train.opening import Opening
from cutlayer.train.server_coding import ServerCoding
from cutlayer.train.server_part import ServerPart
from cutlayer.train.task import task_of
from cutlayer.train.upload_checks import far_updates, read_adapter
from cutlayer.wire.codec import AdapterMessage, encode_adapter


class Server:
    """Holds the global adapter, hands it out and averages what comes back.

    adapter: the global adapter of the whole model (before the cut, after it, and the head). bare:
    its first blocks that carry no adapter, where devices are frozen (see bare_blocks.py). part:
    what it trains in the round that was begun last. coding: how activations come, in all rounds.
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

    def broadcast(self, device: int, round: int, decision: Decision) -> bytes | None:
        """The device's share of the global adapter as a frame; None where it trains nothing."""
        tensors = {name: self.adapter[name] for name in self.device_names(decision)}
        if not tensors:
            return None
        return encode_adapter(
            AdapterMessage(device, round, 0, tensors), self.job.method.adapter_bits
        )

    def openings(
        self, round: int, decisions: Mapping[int, Decision], link: Link
    ) -> dict[int, Opening]:
        """The frames that each device of a round, or of a turn of it, begins with."""
        coding = self.coding
        for device in link.changed(list(decisions)):
            coding.forget(device)
        coding.begin(decisions)
        having: set[int] = set()
        if coding.fingerprint is not None:
            having = link.having(list(decisions), coding.fingerprint)
        averages = self.job.method.aggregate != "none"
        return {
            device: Opening(
                self.broadcast(device, round, decision) if averages else None,
                None if device in having else coding.basis,
                coding.plain_steps,
                coding.held(device),
            )
            for device, decision in decisions.items()
        }

    def begin(
        self, round: int, decisions: Mapping[int, Decision], steps: Mapping[int, int]
    ) -> None:
        """Start a round, or a turn of it, with devices that have started it.

        steps: of each device in the round.
        """
        self._round = round
        self.part = ServerPart(
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
        names = self.device_names(self.part.decisions[device])
        due = {name: self.adapter[name] for name in names}
        return read_adapter(frame, device, self._round, due, self.model.compute)

    def far_updates(
        self, devices: Sequence[int], uploads: Mapping[int, Adapter]
    ) -> dict[int, FrameError]:
        """The devices whose upload or server adapter moved too far to be averaged, and why."""
        trained = {device: self.part.adapters.after_cut(device) for device in devices}
        return far_updates(self.adapter, trained) | far_updates(self.adapter, uploads)

    def collect(self, uploads: Mapping[int, Adapter], samples: Mapping[int, int]) -> None:
        """Average the devices' uploads and their server adapters into the global adapter.

        samples: of every device that counts, its weight; uploads: of those that trained.
        """
        devices = sorted(samples)
        joined = [self._joined(device, uploads.get(device, {})) for device in devices]
        average = average_by_samples(joined, [samples[device] for device in devices])
        self.adapter = {
            name: average[name].to(tensor.device) if name in average else tensor
            for name, tensor in self.adapter.items()
        }

    def _joined(self, device: int, upload: Adapter) -> Adapter:
        """What was trained on a device's data, on both sides of the cut."""
        part = self.part.adapters.after_cut(device)
        own, shared = part | upload, {}
        if self.job.method.server_adapter != "averaged":
            own, shared = upload, part
        for one in reversed(upload_steps(self.job.training, self.model.trained)):
            own = one.on_server(self.adapter, own)
        return shared | own

    def blend(self, trained: Adapter, share: float) -> None:
        """Mix in what the server trained itself: w = (1 - share) w + share trained.

        Tensors that it did not train stay.
        """
        mine = {name: self.adapter[name] for name in trained}
        other = {name: trained[name].to(tensor.device) for name, tensor in mine.items()}
        self.adapter = self.adapter | weighted_average([mine, other], [1 - share, share])
