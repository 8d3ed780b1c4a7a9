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
from cutlayer.model.shapes import block_shapes
from cutlayer.planning.known.method_costs import (
    device_memory_bytes,
    device_part,
    flops,
    server_part,
    tail_part,
    tokens_sent,
)
from cutlayer.wire.frame_bytes import (
    activations_bytes,
    adapter_bytes,
    features_bytes,
    gradient_bytes,
    visit_bytes,
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Loads:
    """What m devices send, compute and hold in one round: [m], or one number for all.

    samples_per_epoch: [m]. classes: how many the data has. Bits are those of whole frames, headers
    included.
    """

    job: Job
    spec: ModelSpec
    classes: int
    samples_per_epoch: Floats

    @cached_property
    def batches(self) -> dict[int, Ints]:
        """By size of a batch in samples: how many of them each device has in the round [m]."""
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
        """Bits of the activations that each device sends up [m], at `bits` bits a value."""
        return self._frames(lambda batch: self._activations_bytes(batch, cut, tokens, bits))

    def _activations_bytes(self, batch: int, cut: int, tokens: int | None, bits: float) -> int:
        uplink = self.job.method.uplink
        named = "rate_bits" if uplink.codec == "klt" else "bits"
        quantizer = uplink.model_copy(update={named: bits})
        sent, width = self._shape(cut, tokens)
        text, language = self.spec.modality == "text", self.spec.parts.language
        labels = self.spec.vocabulary + 1 if language else self.classes
        if self.job.has_tail:  # labels stay on the device, or are a bit a token
            by_token = self.job.method.tail_tokens == "learnt"
            labels, language = (2, True) if by_token else (1, False)
        return activations_bytes((batch, sent, width), quantizer, labels, text, by_token=language)

    def visit_bits(self, cut: int, tokens: int | None, bits: float, first: bool) -> Floats:
        """Bits sent up [m] where samples that the server holds are not sent again but named.

        first: the server holds none of them yet; then the first of several epochs sends them all.
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

    def features_bits(self, cut: int, tokens: int | None) -> tuple[Floats, Floats]:
        """[m] bits of hidden states sent down to a tail, and of their gradients sent up.

        Of all tokens: how many are learnt (method.tail_tokens) is not known before data are read.
        """
        if not self.job.has_tail:
            return np.zeros(len(self.samples_per_epoch)), np.zeros(len(self.samples_per_epoch))
        method, spec = self.job.method, self.spec
        sent = spec.tokens_at(spec.end)
        if spec.residual is None:
            sent = tokens_sent(self.job, spec, cut, tokens)
        width = spec.width_at(spec.end)
        return (
            self._frames(lambda b: features_bytes(b * sent, width, method.features_down)),
            self._frames(lambda b: features_bytes(b * sent, width, method.gradients_up, True)),
        )

    def adapter_bits(self, cut: int) -> float:
        """Bits of the adapter that a device gets, and of the one that it sends back."""
        method = self.job.method
        tail = tail_part(self.job, self.spec, cut, None)
        trained = device_part(self.job, self.spec, cut).adapter_parameters
        trained += tail.adapter_parameters if tail else 0
        if method.aggregate == "none" or not trained:
            return 0.0
        shapes: list[tuple[str, tuple[int, ...]]] = []
        if method.train == "lora":
            shapes += block_shapes(self.spec, self._trained_blocks(cut)).items()
        # The rest are all trained numbers but the head's; the bytes of their names are negligible.
        rest = trained - sum(prod(shape) for _, shape in shapes)
        if rest:
            shapes.append(("classifier.weight", (rest,)))
        return 8.0 * adapter_bytes(shapes, method.adapter_bits)

    def _trained_blocks(self, cut: int) -> list[int]:
        """The blocks on a device whose adapters it trains."""
        if not self.job.method.split:
            return list(range(self.spec.depth))
        first = range(cut) if self.trains_on_device(cut) else ()
        return [*first, *(range(self.spec.end, self.spec.depth) if self.job.has_tail else ())]

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
