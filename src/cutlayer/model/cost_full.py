"""What a part of a transformer costs when every weight of it trains, or none."""

from __future__ import annotations

from cutlayer.model.families import ModelSpec
from cutlayer.model.parameter_counts import (
    FLOAT_BYTES,
    Cost,
    Side,
    block_linears,
    block_parameters,
    embedding_parameters,
    tail_parameters,
)


def part_cost(
    spec: ModelSpec, first: int, last: int, side: Side, tokens: int, *, incoming: bool
) -> Cost:
    """The cost of blocks first ... last - 1, and of what this side has before or after them.

    tokens: how many go through the blocks. incoming: whether a gradient must be computed for the
    first block's input.
    """
    parameters = (last - first) * block_parameters(spec)
    forward = (last - first) * _block_flops(spec, tokens)
    # Each product has two gradients, of its input and of its weight.
    backward = 2 * forward
    saved = (last - first) * _block_saved(spec, tokens)
    post_norm = spec.parts.norm is None
    if post_norm and first < last and side == "server" and not incoming:
        # Nothing before queries, keys and values wants a gradient; other blocks begin with a norm.
        backward -= 3 * 2 * tokens * spec.width**2
    if side != "server":
        parameters += embedding_parameters(spec)
        if spec.modality == "image":
            kernel = spec.channels * spec.patch_size**2
            embedding = 2 * spec.patches * kernel * spec.width
            forward, backward = forward + embedding, backward + embedding
            saved += spec.channels * spec.image_size**2
        else:
            saved += tokens * (spec.width + 2)
    if side != "device":
        head = 2 * spec.head_inputs * spec.num_classes
        pooler = 2 * spec.width**2 if spec.parts.pool == "pooler" else 0
        alive = incoming or first < last or side == "whole"
        parameters += tail_parameters(spec) + (spec.head_inputs + 1) * spec.num_classes
        forward += head + pooler
        # A norm or pooler trains, so the head's input always wants its gradient.
        backward += 2 * head + pooler * (1 + alive)
        saved += _tail_saved(spec, tokens)
    return Cost(0, parameters, forward, backward, FLOAT_BYTES * saved)


def _block_flops(spec: ModelSpec, tokens: int) -> int:
    matrices = sum(x.inputs * x.outputs for x in block_linears(spec))
    return 2 * tokens * matrices + 4 * tokens**2 * spec.width


def _block_saved(spec: ModelSpec, tokens: int) -> int:
    """Numbers that a block keeps in memory for its backward pass."""
    width = spec.width
    # Two norms: input, mean and deviation; and their outputs (or the block's input), which the
    # linear layers read.
    norms = 2 * (width + 2) + 2 * width
    # q, k, v, the output, which the next linear layer reads, and the log-sum-exp of each head.
    attention = 4 * width + spec.heads
    # Before and after the activation function; SwiGLU: gate, its SiLU, the factor, the product.
    mlp = spec.mlp_width * (4 if spec.gated_mlp else 2)
    return tokens * (norms + attention + mlp + 2 * width * spec.parts.layer_scale)


def _tail_saved(spec: ModelSpec, tokens: int) -> int:
    width = spec.width
    if spec.parts.pool == "pooler":
        return tokens * width + width  # a slice, as of the CLS token, keeps all tokens
    read = tokens * width if spec.parts.pool == "cls" else spec.head_inputs
    return tokens * (width + 2) + read
