"""A device: its data, its adapter, and what it does with them in a round."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.round_shape import batch_sizes
from cutlayer.data.dataset import Dataset
from cutlayer.data.image_augmentation import augment
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.lora import Adapter
from cutlayer.seeds import derive, numpy_rng, torch_rng
from cutlayer.settings.method import Tokens
from cutlayer.train.adapter_upload import upload_steps
from cutlayer.train.batch_order import draw_batches
from cutlayer.train.batches import one_by_one
from cutlayer.train.changes import change_values
from cutlayer.train.coding import DeviceCoding
from cutlayer.train.device_blocks import DeviceBlocks
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.reuse import reuses
from cutlayer.train.task import task_of
from cutlayer.train.trained_stack import TrainedStack
from cutlayer.wire.adapter_frames import decode_adapter, encode_adapter
from cutlayer.wire.codecs.seam import Codec
from cutlayer.wire.messages import ActivationsMessage, AdapterMessage

if TYPE_CHECKING:
    from cutlayer.secure_sum.device import SumDevice
    from cutlayer.secure_sum.fixed_point import Floats

GENERATED_DATA = -1
"""The number that stands for the server where it trains on generated data; devices count from 0."""


@dataclass(frozen=True)
class ToEncode:
    """The messages of a device's step and the codec to encode them with.

    rng: random generator for a codec that rounds at random; None: it does not.
    """

    codec: Codec
    messages: Sequence[ActivationsMessage]
    rng: torch.Generator | None


@dataclass(eq=False)
class Device:
    """One device of a fleet: its data, its adapter and the batches of its round.

    pool.py runs the model for it, together with the other devices of its cut.

    id: its number in the fleet, which seeds its random draws.
    adapter: the tensors it trains this round: those before the cut, or the whole model's when the
    method does not split; empty if the device is frozen. samples_a_round: most samples of an epoch
    (None: all it has). decision: the round's. coding: encodes its activations. blocks: run its
    blocks in other numbers than float32 (None: it has no programs for that). A round lasts from
    `begin` to `end`, which drops the adapter. From `stack_adapters` on the adapter is row `row` of
    `stack`, which other devices may share; stack is None if nothing trains.
    """

    id: int
    data: Dataset
    job: Job
    model: CutModel
    preprocess: Preprocessor
    adapter: Adapter = field(default_factory=dict)
    samples_a_round: int | None = None
    round: int = -1
    decision: Decision = Decision(0)  # noqa: RUF009 - frozen
    stack: TrainedStack | None = None
    row: int = 0
    coding: DeviceCoding = field(default_factory=DeviceCoding)
    blocks: DeviceBlocks | None = None
    _batches: list[np.ndarray] = field(default_factory=list)
    _start: Adapter = field(default_factory=dict)
    _sum: "SumDevice | None" = None
    _due: tuple[list[int], list[int]] = ([], [])

    def __post_init__(self) -> None:
        self.reuses = reuses(self.job, self.model.spec.modality)
        self.task = task_of(self.job, self.model.spec)

    def begin(self, round: int, decision: Decision, frame: bytes | None) -> None:
        """Start a round, with the adapter of a broadcast frame or (None) the one it has."""
        if frame is not None:
            most = frame_limit(self.model, self.job.training.batch_size)
            received = decode_adapter(frame, max_bytes=most, device=self.model.compute)
            self.adapter = received.tensors
        self._start, self._sum = self.adapter, None
        self.round, self.decision = round, decision
        self.stack = None
        self._batches = list(self._draw_batches(round))

    def end(self) -> None:
        """End the round and drop the adapter: the next round's broadcast brings another."""
        self.data.dismiss()
        self.adapter, self.stack, self._batches = {}, None, []
        self._start, self._sum = {}, None

    def _draw_batches(self, round: int) -> Iterator[np.ndarray]:
        job = self.job
        sizes = (job.training.local_epochs, job.training.batch_size, len(self.data))
        most, variants = self.samples_a_round, self._variants
        return draw_batches(job.seed, self.id, round, *sizes, most, variants)

    def first_batch(self, round: int) -> Dataset:
        """The samples of the first step of a round that has not begun yet."""
        return self._samples(next(self._draw_batches(round)), round, 0)

    @property
    def steps(self) -> int:
        """Batches of a round."""
        return len(batch_sizes(self.samples, self.job.training))

    @property
    def samples(self) -> int:
        """Samples the device trains on in one epoch."""
        return min(len(self.data), self.samples_a_round or len(self.data))

    @property
    def tokens(self) -> Tokens:
        """Which tokens cross the cut this round."""
        return self.decision.selection(self.job.method)

    def to_encode(self, step: int, message: ActivationsMessage | None) -> "list[ToEncode]":
        """What of a step is to be encoded, and with what; `frame` takes the frames of it.

        message: activations of the samples `to_compute`; None if there are none. Pass the encoded
        frames to `frame`.
        """
        seed = self.job.seed
        codec = self._codec(step)
        if self._changes(step):
            assert message is not None
            batch, messages = self._batches[step], one_by_one(message)
            fitted = self.coding.fits_changes(self.job.method)
            whole, changes = self.coding.changes.split(step, batch, messages, fitted)
            self._due = (list(whole), list(changes))
            return [
                ToEncode(codec, list(whole.values()), None),
                ToEncode(self._change_codec(step), list(changes.values()), None),
            ]
        if self._visits(step):
            return [ToEncode(codec, [] if message is None else one_by_one(message), None)]
        assert message is not None
        rng = torch_rng(seed, self.id, self.round, "uplink", step)
        return [ToEncode(codec, [message], rng)]

    def frame(self, step: int, encoded: Sequence[Sequence[bytes]]) -> bytes:
        """The frame of a step, of what `to_encode` gave."""
        due = (self.id, self.round, step)
        if self._changes(step):
            codecs = (self._codec(step), self._change_codec(step))
            whole, changes = (
                dict(zip(numbers, frames, strict=True))
                for numbers, frames in zip(self._due, encoded, strict=True)
            )
            return self.coding.change_visit(due, self._batches[step], whole, changes, codecs)
        (frames,) = encoded
        if self._visits(step):
            return self.coding.visit(due, self._batches[step], frames)
        (frame,) = frames
        return frame

    def _codec(self, step: int) -> Codec:
        rotation = derive(self.job.seed, "rotation")
        return self.coding.codec_at(step, self.job.method, self.decision, rotation)

    def _change_codec(self, step: int) -> Codec:
        rotation = derive(self.job.seed, "rotation")
        return self.coding.change_codec_at(step, self.job.method, rotation)

    def dropout_seed(self, step: int, purpose: str = "device-dropout") -> int | None:
        """What the LoRA dropout of a pass of a step is drawn from; None without dropout."""
        if not self.job.model.lora.dropout:
            return None
        return derive(self.job.seed, self.id, self.round, purpose, step)

    def to_compute(self, step: int) -> np.ndarray:
        """The numbers of the samples of a step that must be computed: the server holds the rest."""
        batch = self._batches[step]
        return self.coding.to_send(batch) if self._visits(step) else batch

    def _visits(self, step: int) -> bool:
        """Whether samples that the server holds are only named in a step.

        Not in the steps to which a basis is fitted.
        """
        return self.reuses and step >= self.coding.plain_steps

    def _changes(self, step: int) -> bool:
        """Whether samples go up one by one, as changes where that is due."""
        return self.job.method.uplink.change and step >= self.coding.plain_steps

    def batch(self, step: int) -> Dataset:
        """The samples `to_compute` of one step; the next step's begin to be decoded meanwhile."""
        indices = self.to_compute(step)
        self.data.expect(indices)
        if step + 1 < len(self._batches):
            self.data.expect(self.to_compute(step + 1))
        return self._of_step(step, indices)

    def whole_batch(self, step: int) -> Dataset:
        """All samples of one step, including those that the server holds."""
        return self._of_step(step, self._batches[step])

    def _of_step(self, step: int, indices: np.ndarray) -> Dataset:
        epoch = step // (self.steps // self.job.training.local_epochs)
        return self._samples(indices, self.round, epoch)

    @property
    def _variants(self) -> int:
        """How many versions of a sample image augmentation makes; 0 if every visit makes a new one.

        With a fixed number of versions, version v of sample n has the number n * versions + v.
        """
        uplink = self.job.method.uplink
        return uplink.variants or 0 if self.job.training.image_augmentation else 0

    def _samples(self, indices: np.ndarray, round: int, epoch: int) -> Dataset:
        kinds, versions = self.job.training.image_augmentation, self._variants
        batch = self.data.subset(indices // versions if versions else indices)
        if not kinds or not len(indices):
            return batch
        images = batch.inputs
        assert isinstance(images, torch.Tensor)  # train.check refuses texts
        visit = () if versions else (round, epoch)  # a version is the same at every visit
        seeds = [(self.id, "augment", int(sample), *visit) for sample in indices]
        rngs = [numpy_rng(self.job.seed, *seed) for seed in seeds]
        return Dataset(augment(images, kinds, rngs), batch.labels, batch.classes)

    def to_upload(self) -> AdapterMessage:
        """The adapter that the server is to average, as a message."""
        sent = self.adapter
        if self.stack is not None:
            start = self.stack.start(self.row)
            for one in upload_steps(self.job.training, self.model.trained):
                sent = one.on_device(start, sent)
        return AdapterMessage(self.id, self.round, self.samples, sent)

    def upload(self) -> bytes:
        """The frame of the adapter that the server is to average."""
        return encode_adapter(self.to_upload(), self.job.method.adapter_bits)

    def change(self) -> "Floats":
        """What training changed of the adapter, as `change_values` writes it."""
        return change_values(self._start, self.adapter)

    def begin_sum(self, round: int, change: "Floats") -> None:
        """Take part in a round's secure sum with a change that any process has trained."""
        # Of an extra: only jobs that ask for it need the package `cryptography`.
        from cutlayer.secure_sum.device import SumDevice

        self._sum = SumDevice(self.id, round, change)

    def answer(self, question: bytes) -> bytes:
        """Its answer to a question of a secure sum of the changes of adapters.

        Raises FrameError, RunError.
        """
        if self._sum is None:
            self.begin_sum(self.round, self.change())
        assert self._sum is not None
        return self._sum.answer(question)


def stack_adapters(devices: Sequence[Device]) -> None:
    """Join the adapters of devices that have begun a round: a stack for each cut, a row for each
    device."""
    alike: dict[int, list[Device]] = {}
    for device in devices:
        if device.adapter:
            alike.setdefault(device.decision.cut, []).append(device)
    for group in alike.values():
        first = group[0]
        stack = TrainedStack(
            [device.adapter for device in group],
            first.model.trained,
            first.job.training,
            first.round,
            [device.steps for device in group],
        )
        for row, device in enumerate(group):
            device.stack, device.row, device.adapter = stack, row, stack.adapter(row)
