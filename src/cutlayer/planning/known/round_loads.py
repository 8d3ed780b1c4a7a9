"""What a round will ask of each device, by cut, tokens and bits: in closed form, without torch."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from cutlayer.job import Job
from cutlayer.model.families import ModelSpec
from cutlayer.model.shapes import device_shapes
from cutlayer.planning.known.method_costs import (
    device_memory_bytes,
    device_part,
    flops,
    server_part,
    tokens_sent,
)
from cutlayer.wire.frame_bytes import activations_bytes, adapter_bytes, gradient_bytes

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Loads:
    """Of m devices that hold `samples` [m] each; results are of a round, [m] or one for all.

    classes: of the data. Bits are those of whole frames, headers included.
    """

    job: Job
    spec: ModelSpec
    classes: int
    samples: Floats

    @property
    def trained_samples(self) -> Floats:
        """[m] samples of a round, all epochs together."""
        return self.job.training.local_epochs * self.samples

    @property
    def steps(self) -> Floats:
        """[m] batches of a round."""
        training = self.job.training
        return training.local_epochs * np.ceil(self.samples / training.batch_size)

    def activations_bits(self, cut: int, tokens: int | None, bits: int) -> Floats:
        """[m] sent up through the cut."""
        quantizer = self.job.method.uplink.model_copy(update={"bits": bits})
        sent, width = self._shape(cut, tokens)
        text = self.spec.modality == "text"
        return self._frames(
            lambda batch: activations_bytes((batch, sent, width), quantizer, self.classes, text)
        )

    def gradient_bits(self, cut: int, tokens: int | None, bits: int) -> Floats:
        """[m] sent back; 0 without a split, or with nothing to train before the cut."""
        if not self.job.method.split or not self.trains_on_device(cut):
            return np.zeros(len(self.samples))
        quantizer = self.job.method.downlink.model_copy(update={"bits": bits})
        sent, width = self._shape(cut, tokens)
        text = self.spec.modality == "text"
        return self._frames(lambda batch: gradient_bytes((batch, sent, width), quantizer, text))

    def adapter_bits(self, cut: int) -> float:
        """Of the adapter a device gets, and of that it sends back."""
        method = self.job.method
        if method.aggregate == "none" or not self.trains_on_device(cut):
            return 0.0
        part = device_part(self.job, self.spec, cut)
        shapes: list[tuple[str, tuple[int, ...]]] = []
        if method.train == "lora":
            shapes += device_shapes(self.spec, cut if method.split else self.spec.depth).items()
        # Without a split that is all but the head; beside whole models names weigh nothing.
        rest = part.adapter_parameters - sum(prod(shape) for _, shape in shapes)
        if rest:
            shapes.append(("classifier.weight", (rest,)))
        return 8.0 * adapter_bytes(shapes, method.adapter_bits)

    def trains_on_device(self, cut: int) -> bool:
        """Whether there is anything to train before the cut."""
        return device_part(self.job, self.spec, cut).adapter_parameters > 0

    def forward_flops(self, cut: int) -> Floats:
        """[m] of a device, forward."""
        return self.trained_samples * device_part(self.job, self.spec, cut).forward_flops

    def backward_flops(self, cut: int) -> Floats:
        """[m] of a device, backward; 0 where nothing returns to it."""
        if not self.trains_on_device(cut):
            return np.zeros(len(self.samples))
        return self.trained_samples * device_part(self.job, self.spec, cut).backward_flops

    def server_flops(self, cut: int, tokens: int | None) -> Floats:
        """[m] of the server for each device, both passes."""
        return self.trained_samples * flops(server_part(self.job, self.spec, cut, tokens))

    def memory_bytes(self, cut: int) -> int:
        """Of a device at its peak."""
        return device_memory_bytes(self.job, self.spec, cut)

    def _shape(self, cut: int, tokens: int | None) -> tuple[int, int]:
        return tokens_sent(self.job, self.spec, cut, tokens), self.spec.width_at(cut)

    def _frames(self, size_of: Callable[[int], int]) -> Floats:
        """[m] bits of the frames of all batches, the last and smaller one of an epoch included."""
        training = self.job.training
        whole, rest = np.divmod(self.samples.astype(np.int64), training.batch_size)
        total = whole * size_of(training.batch_size)
        for size in np.unique(rest[rest > 0]):
            total = total + np.where(rest == size, size_of(int(size)), 0)
        return 8.0 * training.local_epochs * total
