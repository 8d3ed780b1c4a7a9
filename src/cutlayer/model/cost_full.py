"""What a part of a transformer costs when all of its weights train, or none."""

from __future__ import annotations

from cutlayer.model.parameter_counts import (
    FLOAT_BYTES,
    Cost,
    Side,
    blocks_parameters,
    copies_attended,
    embedding_flops,
    embedding_parameters,
    head_entry_flops,
    head_flops,
    head_parameters,
    tail_parameters,
)
from cutlayer.model.spec import ModelSpec


def part_cost(
    spec: ModelSpec, first: int, last: int, side: Side, tokens: int, *, incoming: bool
) -> Cost:
    """The cost of blocks first ... last - 1, and of the layers before or after them on `side`.

    tokens: how many go through the blocks. incoming: whether a gradient must be computed for the
    first block's input.
    """
    parameters = blocks_parameters(spec, first, last)
    forward = (last - first) * _block_flops(spec, tokens)
    # Each product has two gradients, of its input and of its weight.
    backward = 2 * forward
    saved = sum(_block_saved(spec, tokens, index) for index in range(first, last))
    bare = spec.parts.post_norm or (first == 0 and not spec.parts.first_norm)
    if bare and first < last and side in ("server", "middle") and not incoming:
        # Without a first norm, nothing before queries, keys and values needs a gradient.
        backward -= 3 * 2 * tokens * spec.width * spec.attention_width
    if side in ("device", "whole"):
        parameters += embedding_parameters(spec)
        embedding = embedding_flops(spec)
        forward += embedding
        if spec.modality == "image":
            backward += embedding  # the images need no gradient
            saved += spec.channels * spec.image_size**2
            saved += spec.parts.embedding_norm * tokens * (spec.width + 2)
        else:
            narrow = spec.embedding_width
            backward += 2 * embedding
            saved += tokens * (narrow + 2 + narrow * (narrow != spec.width))
    if side in ("server", "whole"):
        head = head_flops(spec)
        neck = 2 * spec.width**2 if spec.parts.neck is not None else 0
        alive = incoming or first < last or side == "whole" or spec.parts.norm is not None
        parameters += tail_parameters(spec) + head_parameters(spec)
        forward += head + neck
        # The first layer's input needs no gradient if nothing before it trains.
        still = 0 if alive or neck else head_entry_flops(spec)
        backward += 2 * head - still + neck * (1 + alive)
        saved += _tail_saved(spec, tokens)
    return Cost(0, parameters, forward, backward, FLOAT_BYTES * saved)


def _block_flops(spec: ModelSpec, tokens: int) -> int:
    matrices = sum(linear.inputs * linear.outputs for linear in spec.linears)
    return 2 * tokens * matrices + 4 * tokens**2 * spec.attention_width


def _block_saved(spec: ModelSpec, tokens: int, index: int) -> int:
    """How many numbers block `index` keeps for its backward pass."""
    width = spec.width
    # Two norms: input, mean and deviation; and their outputs (or the block's input), which the
    # linear layers read.
    bare = index == 0 and not spec.parts.first_norm
    norms = (2 - bare) * (width + 2) + 2 * width
    # q, k, v, the output, which the next linear layer reads, and the log-sum-exp of each head.
    # With a fused layer, v is a view that keeps the layer's whole output; rotated q and k are new.
    attention = (4 + copies_attended(spec)) * spec.attention_width + spec.heads
    if spec.parts.fused is not None:
        attention += 2 * spec.attention_width
    # Before and after the activation function; gated: gate, its SiLU, the factor, the product.
    mlp = spec.mlp_width * (4 if spec.gated_mlp else 1 + spec.activation_keeps)
    return tokens * (norms + attention + mlp + 2 * width * spec.parts.layer_scale)


def _tail_saved(spec: ModelSpec, tokens: int) -> int:
    """How many numbers the final norm, the pooling and the head keep for the backward pass."""
    family, width = spec.parts, spec.width
    saved = 0 if family.norm is None else tokens * (width + 2)
    sliced = not spec.pool_mean and family.pool not in ("cls+mean", "map")
    # A slice, such as the CLS token, keeps all tokens in memory; a mean keeps only itself.
    saved += tokens * width if sliced else spec.head_inputs
    if family.neck is not None:
        saved += width + family.neck_norm * (2 * width + 2)
    if family.head.hidden is not None:
        saved += width * (2 if spec.head_activation == "gelu" else 1)
    return saved
