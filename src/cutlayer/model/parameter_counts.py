"""How many numbers the pieces of a transformer hold, from its config; cost.py is built on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from cutlayer.model.spec import ModelSpec

Side = Literal["device", "middle", "server", "whole"]
"""Layers of a part beside its blocks: those before the blocks, none, those after them, or both."""

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Blocks:
    """The share of a part's cost in blocks that keep activations for the backward pass.

    kept_bytes: of the activations that all these blocks keep; largest_bytes: of the block that
    keeps most. input_bytes: of the hidden states that they read. flops: of their forward pass.
    """

    kept_bytes: int = 0
    largest_bytes: int = 0
    input_bytes: int = 0
    flops: int = 0

    def __add__(self, other: Blocks) -> Blocks:
        """The sum for two parts on one machine."""
        return Blocks(
            self.kept_bytes + other.kept_bytes,
            max(self.largest_bytes, other.largest_bytes),
            self.input_bytes + other.input_bytes,
            self.flops + other.flops,
        )


@dataclass(frozen=True)
class Cost:
    """What one part of a model takes.

    parameters: frozen numbers held. adapter_parameters: numbers in its adapter (LoRA, or every
    weight and running statistic; the head counts to the server). forward_flops, backward_flops:
    FLOPs for one sample. activation_bytes: what the forward pass of a sample keeps in memory for
    the backward pass: inputs of norms, of trained layers and of activation functions, queries,
    keys, values and output of attention, in float32; without the masks of LoRA dropout. blocks:
    what `checkpointed` needs to know of the blocks; only where LoRA trains. matrices: how many of
    `parameters` are weights of the blocks' linear layers, which may be stored in few bits.
    logits_bytes: of a language model's logits for one sample; activation_bytes includes them once.
    """

    parameters: int
    adapter_parameters: int
    forward_flops: int
    backward_flops: int
    activation_bytes: int
    blocks: Blocks = Blocks()
    matrices: int = 0
    logits_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        """The sum for two parts on one machine."""
        return Cost(
            self.parameters + other.parameters,
            self.adapter_parameters + other.adapter_parameters,
            self.forward_flops + other.forward_flops,
            self.backward_flops + other.backward_flops,
            self.activation_bytes + other.activation_bytes,
            self.blocks + other.blocks,
            self.matrices + other.matrices,
            self.logits_bytes + other.logits_bytes,
        )

    def checkpointed(self) -> Cost:
        """The cost of the part if each block keeps only its input and is computed again backward.

        Then only one block's activations are in memory at a time, at most those of the largest.
        """
        blocks = self.blocks
        return replace(
            self,
            backward_flops=self.backward_flops + blocks.flops,
            activation_bytes=self.activation_bytes
            - blocks.kept_bytes
            + blocks.input_bytes
            + blocks.largest_bytes,
            blocks=Blocks(),
        )

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the frozen weights in float32."""
        return FLOAT_BYTES * self.parameters

    @property
    def adapter_bytes(self) -> int:
        """Bytes of the trained weights in float32."""
        return FLOAT_BYTES * self.adapter_parameters


def lora_parameters(inputs: int, outputs: int, rank: int) -> int:
    """Numbers in the A and B of one linear layer."""
    return rank * (inputs + outputs)


def copies_attended(spec: ModelSpec) -> bool:
    """Whether the next linear layer reads a copy of the output that attention keeps.

    It does if queries and keys are joined from pieces, such as a prefix and rotated patches.
    """
    return spec.parts.block_inputs in ("patch-rotary", "relative")


def norm_parameters(spec: ModelSpec) -> int:
    """Numbers in one norm."""
    return spec.width * (1 + spec.norm_bias)


def block_parameters(spec: ModelSpec, index: int) -> int:
    """Frozen numbers in block `index`; the first block counts with the layers beside it."""
    numbers = sum(linear.numbers for linear in spec.linears)
    norms = 2 - (index == 0 and not spec.parts.first_norm)
    numbers += norms * norm_parameters(spec) + 2 * spec.width * spec.parts.layer_scale
    if spec.parts.head_norms:  # of queries and of keys, for all heads alike
        numbers += 2 * spec.attention_width // spec.heads
    relative = spec.relative
    if relative is None:
        return numbers
    layers = 0 if relative.shared else relative.to_position + relative.to_content
    return numbers + layers * (spec.width + 1) * spec.width + (index == 0) * relative.conv


def shared_parameters(spec: ModelSpec) -> int:
    """Frozen numbers that every part with blocks holds: a table of relative positions."""
    if spec.relative is None:
        return 0
    return (spec.relative.rows + 2 * spec.relative.norm) * spec.width


def blocks_parameters(spec: ModelSpec, first: int, last: int) -> int:
    """Frozen numbers of blocks first ... last - 1, with the table that they share."""
    shared = shared_parameters(spec) if first < last else 0
    return shared + sum(block_parameters(spec, index) for index in range(first, last))


def embedding_parameters(spec: ModelSpec) -> int:
    """Numbers in the embedding, with position embeddings for the chosen image size."""
    family, width = spec.parts, spec.width
    if spec.modality == "image":
        patch = spec.channels * spec.patch_size**2 + family.patch_bias
        norm = norm_parameters(spec) if family.embedding_norm else 0
        return (patch + spec.prefix + spec.position_rows) * width + norm
    narrow = spec.embedding_width
    tables = (spec.vocabulary + spec.position_rows + spec.token_types) * narrow
    # ELECTRA normalises before it projects, with a bias; DeBERTa after, without.
    before = narrow != width and spec.relative is None and family.block_inputs == "mask"
    norm = (narrow if before else width) * (1 + spec.norm_bias) * family.embedding_norm
    return tables + norm + (narrow + before) * width * (narrow != width)


def embedding_flops(spec: ModelSpec) -> int:
    """FLOPs of the embedding's forward pass: patches, or the projection of narrow tables."""
    if spec.modality == "image":
        return 2 * spec.patches * spec.channels * spec.patch_size**2 * spec.width
    narrow = spec.embedding_width
    return 2 * spec.tokens * narrow * spec.width if narrow != spec.width else 0


def tail_parameters(spec: ModelSpec) -> int:
    """Frozen numbers after the blocks: the final norm, layers between it and the head, and a head
    that is the checkpoint's own.
    """
    family, width = spec.parts, spec.width
    numbers = 0 if family.norm is None else norm_parameters(spec)
    if family.neck is not None:
        numbers += (width + spec.neck_bias) * width + family.neck_norm * norm_parameters(spec)
    if family.head.own:
        numbers += width * spec.vocabulary
    return numbers


def head_parameters(spec: ModelSpec) -> int:
    """Numbers in the head, which trains."""
    return sum((inputs + 1) * outputs for inputs, outputs in spec.head_layers.values())


def head_flops(spec: ModelSpec) -> int:
    """FLOPs of the head's forward pass; each of its two gradients takes as many."""
    return sum(2 * inputs * outputs for inputs, outputs in spec.head_layers.values())


def head_entry_flops(spec: ModelSpec) -> int:
    """FLOPs of the gradient at the head's input, through the layers that read it."""
    layers = list(spec.head_layers.values())
    readers = layers if spec.parts.head.hidden is None else layers[:1]
    return sum(2 * inputs * outputs for inputs, outputs in readers)
