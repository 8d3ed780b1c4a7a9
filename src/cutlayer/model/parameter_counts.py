"""How many numbers the pieces of a transformer hold, from its config: what the costs count with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from cutlayer.model.families import ModelSpec

Side = Literal["device", "server", "whole"]
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """One part of a model.

    parameters: frozen numbers held. adapter_parameters: numbers in its adapter (LoRA, or every
    weight and running statistic; the head with the server). forward_flops, backward_flops: FLOPs
    for one sample. activation_bytes: what the forward pass of a sample leaves in memory for the
    backward pass: inputs of norms, of trained layers and of activation functions, queries, keys,
    values and output of attention, in float32; without LoRA dropout's masks.
    """

    parameters: int
    adapter_parameters: int
    forward_flops: int
    backward_flops: int
    activation_bytes: int

    @property
    def parameter_bytes(self) -> int:
        """Frozen weights in float32."""
        return FLOAT_BYTES * self.parameters

    @property
    def adapter_bytes(self) -> int:
        """Trained weights in float32."""
        return FLOAT_BYTES * self.adapter_parameters


class Linear(NamedTuple):
    """A linear layer of a block: path below the block, sizes, whether it has a bias."""

    path: str
    inputs: int
    outputs: int
    bias: bool


def lora_parameters(inputs: int, outputs: int, rank: int) -> int:
    """Numbers in the A and B of one linear layer."""
    return rank * (inputs + outputs)


def block_linears(spec: ModelSpec) -> tuple[Linear, ...]:
    """The linear layers of a block, in the order they are computed."""
    family, width, hidden = spec.parts, spec.width, spec.mlp_width
    attention = tuple(
        Linear(path, width, width, spec.qkv_bias)
        for path in (family.query, family.key, family.value)
    )
    up = ("mlp.gate_proj", "mlp.up_proj") if spec.gated_mlp else (family.up,)
    down = "mlp.down_proj" if spec.gated_mlp else family.down
    return (
        *attention,
        Linear(family.output, width, width, True),
        *(Linear(path, width, hidden, True) for path in up),
        Linear(down, hidden, width, True),
    )


def block_parameters(spec: ModelSpec) -> int:
    """Frozen numbers in one block."""
    linear = sum(x.inputs * x.outputs + x.outputs * x.bias for x in block_linears(spec))
    return linear + 4 * spec.width + 2 * spec.width * spec.parts.layer_scale


def embedding_parameters(spec: ModelSpec) -> int:
    """Numbers in the embedding, position embeddings at the chosen image size."""
    if spec.modality == "text":
        return (spec.vocabulary + spec.positions + spec.token_types + 2) * spec.width
    patch = spec.channels * spec.patch_size**2 + 1
    # Each prefix token is a parameter; all but registers have a position too.
    return (patch + spec.prefix + spec.parts.prefix + spec.patches) * spec.width


def tail_parameters(spec: ModelSpec) -> int:
    """Frozen numbers after the blocks: the final norm, or the pooler."""
    return spec.width**2 + spec.width if spec.parts.norm is None else 2 * spec.width
