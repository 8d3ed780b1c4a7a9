"""A device: its data, its adapter, and what it computes in a round.

The functions take lists of devices with one cut, since devices that share a machine (a simulator)
share one pass through the backbone; a real device is a list of one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.round_shape import batch_sizes
from cutlayer.data.dataset import Dataset
from cutlayer.errors import RunError
from cutlayer.job import Job
from cutlayer.model.cut import Activations, CutModel
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.lora import Adapter, Segment
from cutlayer.seeds import derive, numpy_rng, torch_rng
from cutlayer.settings.method import Quantizer, Tokens
from cutlayer.train.optim import make_optimizer
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.wire.codec import (
    ActivationsMessage,
    AdapterMessage,
    decode_adapter,
    decode_gradient,
    encode_activations,
    encode_adapter,
)
from cutlayer.wire.tokens import select

SERVER = -1
"""The number of the device that is none: the server itself, where it trains on data."""


@dataclass
class Device:
    """One device of a fleet.

    adapter: the tensors it trains this round: those before the cut, or the whole model's when the
    method does not split; none where the device is frozen. samples_a_round bounds the samples of
    an epoch (None: all it has). decision: the round's, from `begin`.
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
    _optimizer: torch.optim.Optimizer | None = None
    _batches: list[np.ndarray] = field(default_factory=list)
    _sent: torch.Tensor | None = None

    def begin(self, round: int, decision: Decision, frame: bytes | None) -> None:
        """Start a round, with the adapter of a broadcast frame or (None) the one it has."""
        if frame is not None:
            received = decode_adapter(frame).tensors
            self.adapter = {name: t.to(self.model.compute) for name, t in received.items()}
        self.round, self.decision = round, decision
        trained = []
        for name, tensor in self.adapter.items():
            if self.model.trained(name):
                trained.append(tensor.requires_grad_(True))
        self._optimizer = make_optimizer(trained, self.job.training) if trained else None
        self._batches = list(self._draw_batches(round))

    def _draw_batches(self, round: int) -> Iterator[np.ndarray]:
        training = self.job.training
        for epoch in range(training.local_epochs):
            order = numpy_rng(self.job.seed, self.id, round, "batches", epoch)
            indices = order.permutation(len(self.data))[: self.samples_a_round]
            for start in range(0, len(indices), training.batch_size):
                yield indices[start : start + training.batch_size]

    def first_batch(self, round: int) -> Dataset:
        """The samples of the first step of a round that has not begun yet."""
        return self.data.subset(next(self._draw_batches(round)))

    @property
    def steps(self) -> int:
        """Batches of a round."""
        return len(batch_sizes(self.samples, self.job.training))

    @property
    def samples(self) -> int:
        """Samples the device trains on in one epoch: its weight in the average."""
        return min(len(self.data), self.samples_a_round or len(self.data))

    @property
    def tokens(self) -> Tokens:
        """Which tokens cross the cut this round."""
        return self.decision.selection(self.job.method)

    @property
    def uplink(self) -> Quantizer:
        """How activations become bits this round."""
        return self.decision.uplink(self.job.method)

    def segment(self, step: int) -> Segment:
        """The device's rows in a batch that mixes devices."""
        rng = None
        if self.job.model.lora.dropout:
            rng = torch_rng(self.job.seed, self.id, self.round, "device-dropout", step)
        return Segment(self.adapter, len(self._batches[step]), rng)

    def batch(self, step: int) -> Dataset:
        """The samples of one step."""
        return self.data.subset(self._batches[step])

    def update(self) -> None:
        """Apply the gradients of the last backward pass."""
        if self._optimizer is not None:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)

    def upload(self) -> bytes:
        """The trained adapter as a frame."""
        message = AdapterMessage(self.id, self.round, self.samples, self.adapter)
        return encode_adapter(message, self.job.method.adapter_bits)


def forward(devices: Sequence[Device], step: int, watch: Stopwatch) -> list[bytes]:
    """One batch of each device through its blocks, to one frame of activations a device."""
    first = devices[0]
    batches = [device.batch(step) for device in devices]
    selecting = any(device.decision.tokens is not None for device in devices)
    activations = first.model.device_forward(
        batch_inputs(first, batches),
        first.decision.cut,
        [device.segment(step) for device in devices],
        score=first.job.method.tokens.score if selecting else None,
    )
    frames, start = [], 0
    for device, batch in zip(devices, batches, strict=True):
        rows = slice(start, start + len(batch))
        start += len(batch)
        sent, mask = shorten(activations, rows, device.tokens, first.model.spec.prefix)
        device._sent = sent
        message = ActivationsMessage(
            device.id,
            device.round,
            step,
            sent.detach(),
            mask,
            torch.from_numpy(batch.labels),
            len(batch.classes),
        )
        with watch.timed("wire"):
            frames.append(
                encode_activations(
                    message,
                    device.uplink,
                    rng=torch_rng(device.job.seed, device.id, device.round, "uplink", step),
                    rotation_seed=derive(device.job.seed, "rotation"),
                )
            )
    return frames


def shorten(
    activations: Activations, rows: slice, tokens: Tokens, prefix: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The tokens of some rows that cross the cut: hidden [b, T', D] and mask [b, T'] or None."""
    hidden, mask = activations.hidden[rows], activations.mask
    mask = mask[rows] if mask is not None else None
    if activations.scores is None:
        return hidden, mask
    chosen = select(hidden, activations.scores[rows], prefix, tokens, mask)
    return chosen.hidden, chosen.mask


def backward(devices: Sequence[Device], frames: Sequence[bytes], watch: Stopwatch) -> None:
    """The server's gradients back through the devices' blocks, and a step of each optimiser."""
    sent, gradients = [], []
    for device, frame in zip(devices, frames, strict=True):
        assert device._sent is not None
        sent.append(device._sent)
        with watch.timed("wire"):
            gradient = decode_gradient(frame).gradient
        gradients.append(gradient.to(device._sent.device))
        device._sent = None
    torch.autograd.backward(sent, gradients)
    for device in devices:
        device.update()


def train_whole(devices: Sequence[Device], step: int) -> list[float]:
    """One step of devices that run the whole model; returns each one's loss."""
    first = devices[0]
    batches = [device.batch(step) for device in devices]
    logits = first.model.forward(
        batch_inputs(first, batches), [device.segment(step) for device in devices]
    )
    losses = losses_by_device(logits, [torch.from_numpy(batch.labels) for batch in batches])
    values = [loss.item() for loss in losses]
    for device, value in zip(devices, values, strict=True):
        check_finite(value, device.id, device.round, step)
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    for device in devices:
        device.update()
    return values


def losses_by_device(logits: torch.Tensor, labels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The mean cross-entropy of each device's rows of a mixed batch. logits [B, C]."""
    parts = torch.split(logits, [len(rows) for rows in labels])
    return [
        F.cross_entropy(part, rows.to(part.device))
        for part, rows in zip(parts, labels, strict=True)
    ]


def check_finite(loss: float, device: int, round: int, step: int) -> None:
    """Raise RunError when a loss is not a number."""
    if not np.isfinite(loss):
        who = "the generated data" if device == SERVER else f"device {device}"
        raise RunError(
            f"training: the loss of {who} is {loss} in round {round}, step {step}: "
            "lower training.lr, or raise the bits of method.uplink and method.downlink"
        )


def batch_inputs(device: Device, batches: Sequence[Dataset]) -> dict[str, torch.Tensor]:
    """Several batches as one, ready for the model."""
    raw = [batch.inputs for batch in batches]
    joined: torch.Tensor | list[str]
    if isinstance(raw[0], torch.Tensor):
        joined = torch.cat([part for part in raw if isinstance(part, torch.Tensor)])
    else:
        joined = [text for part in raw for text in part]
    return {k: v.to(device.model.compute) for k, v in device.preprocess(joined).items()}
