"""What a round will ask of each device, by cut, tokens and bits: in closed form, without torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.round_shape import Ints, batch_counts
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
from cutlayer.wire.frame_bytes import activations_bytes, adapter_bytes, gradient_bytes, visit_bytes

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Loads:
    """Loads of m devices in one round: [m], or one number for all.

    samples_per_epoch: [m]. classes: how many the data has. Bits are those of whole frames, headers
    included.
    """

    job: Job
    spec: ModelSpec
    classes: int
    samples_per_epoch: Floats

    @cached_property
    def batches(self) -> dict[int, Ints]:
        """[m] batches of a round, by their number of samples."""
        return batch_counts(self.samples_per_epoch, self.job.training)

    @property
    def samples_trained(self) -> Floats:
        """[m] samples of a round, all epochs together."""
        return self.job.training.local_epochs * self.samples_per_epoch

    @property
    def steps(self) -> Floats:
        """[m] batches of a round."""
        return np.asarray(sum(self.batches.values()), dtype=np.float64)

    def activations_bits(self, cut: int, tokens: int | None, bits: float) -> Floats:
        """[m] bits of activations sent up through the cut, at so many bits a value."""
        return self._frames(lambda batch: self._activations_bytes(batch, cut, tokens, bits))

    def _activations_bytes(self, batch: int, cut: int, tokens: int | None, bits: float) -> int:
        uplink = self.job.method.uplink
        named = "rate_bits" if uplink.codec == "klt" else "bits"
        quantizer = uplink.model_copy(update={named: bits})
        sent, width = self._shape(cut, tokens)
        text, language = self.spec.modality == "text", self.spec.parts.language
        labels = self.spec.vocabulary + 1 if language else self.classes
        return activations_bytes((batch, sent, width), quantizer, labels, text, by_token=language)

    def visit_bits(self, cut: int, tokens: int | None, bits: float, first: bool) -> Floats:
        """[m] sent up where samples that the server holds are only named; first: it holds none.

        Of several epochs the first sends them all.
        """
        each = self._activations_bytes(1, cut, tokens, bits)
        empty = self._activations_bytes(0, cut, tokens, bits)
        named = self._frames(lambda batch: visit_bytes(batch, 0, each, empty))
        whole = named
        if first:
            whole = self._frames(lambda batch: visit_bytes(batch, batch, each, empty))
        return named + (whole - named) / self.job.training.local_epochs

    def gradient_bits(self, cut: int, tokens: int | None, bits: int) -> Floats:
        """[m] bits of gradients sent back; 0 without a split, or with nothing to train before the
        cut.
        """
        if not self.job.method.split or not self.trains_on_device(cut):
            return np.zeros(len(self.samples_per_epoch))
        quantizer = Decision(cut, bits_down=bits).downlink(self.job.method)
        sent, width = self._shape(cut, tokens)
        text = self.spec.modality == "text"
        return self._frames(lambda batch: gradient_bytes((batch, sent, width), quantizer, text))

    def adapter_bits(self, cut: int) -> float:
        """Bits of the adapter that a device gets, and of the one that it sends back."""
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
        """[m] FLOPs of a device in the forward passes."""
        return self.samples_trained * device_part(self.job, self.spec, cut).forward_flops

    def backward_flops(self, cut: int) -> Floats:
        """[m] FLOPs of a device in the backward passes; 0 where no gradient returns to it."""
        if not self.trains_on_device(cut):
            return np.zeros(len(self.samples_per_epoch))
        return self.samples_trained * device_part(self.job, self.spec, cut).backward_flops

    def server_flops(self, cut: int, tokens: int | None) -> Floats:
        """[m] FLOPs of the server for each device, both passes."""
        return self.samples_trained * flops(server_part(self.job, self.spec, cut, tokens))

    def memory_bytes(self, cut: int) -> int:
        """Bytes of memory that a device needs at its peak."""
        return device_memory_bytes(self.job, self.spec, cut)

    def _shape(self, cut: int, tokens: int | None) -> tuple[int, int]:
        return tokens_sent(self.job, self.spec, cut, tokens), self.spec.width_at(cut)

    def _frames(self, size_of: Callable[[int], int]) -> Floats:
        """[m] bits of the frames of all batches, the last and smaller one of an epoch included."""
        total = np.zeros(len(self.samples_per_epoch))
        for size, count in self.batches.items():
            total = total + count * size_of(size)
        return 8.0 * total

    def take(self, index: Ints) -> "Loads":
        """The loads of some of the devices, by their index."""
        return replace(self, samples_per_epoch=self.samples_per_epoch[index])
