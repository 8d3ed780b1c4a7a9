"""What each part of a cut model costs, in closed form from its config: nothing is loaded.

FLOPs count matrix products and convolutions, 2mnk each, as torch.utils.flop_counter does; norms,
softmax and activation functions are left out, as is the recomputation that fused attention
kernels do in the backward pass. Numbers are for one sample unless a batch is named. cost_lora.py,
cost_full.py and cost_resnet.py count them.
"""

from __future__ import annotations

from dataclasses import replace

from cutlayer.model import cost_full, cost_lora, cost_resnet
from cutlayer.model.parameter_counts import (
    FLOAT_BYTES,
    Cost,
    Side,
    lora_parameters,
    shared_parameters,
)
from cutlayer.model.spec import SHARE_A_SCALE, ModelSpec, Train, check_train

__all__ = [
    "FLOAT_BYTES", "Cost", "crossing_bytes", "device_cost", "lora_parameters", "memory_bytes",
    "server_cost", "tail_cost", "weight_bytes", "whole_cost",
]  # fmt: skip


_MORE_LOGITS = 3
"""How many tensors as large as a language model's logits are in memory at the peak, not counting
the one that is kept for the backward pass."""


def device_cost(spec: ModelSpec, cut: int, train: Train = "lora") -> Cost:
    """Embedding and the first `cut` blocks.

    A device that trains nothing, whatever `train` is, has `spec.lora.side` "server".
    """
    if train == "full" and spec.lora.side == "server":
        part = _part(spec, 0, cut, "device", None, train)
        return Cost(part.adapter_parameters, 0, part.forward_flops, 0, 0)
    return _part(spec, 0, cut, "device", None, train)


def server_cost(
    spec: ModelSpec, cut: int, tokens: int | None = None, train: Train = "lora"
) -> Cost:
    """Blocks from `cut` on, final norm, pooler and head.

    tokens: T', the number that crossed the cut, prefix included; None for all (a ResNet's always
    all). The gradient at the cut is counted if a device has something to train. If the job has a
    tail on devices, only the blocks between cut and tail are counted.
    """
    incoming = device_cost(spec, cut, train).adapter_parameters > 0
    side: Side = "server" if spec.tail is None else "middle"
    return _part(spec, cut, spec.end, side, tokens, train, incoming=incoming)


def tail_cost(spec: ModelSpec, tokens: int | None = None, train: Train = "lora") -> Cost:
    """The tail's blocks, final norm and head, which devices run; tokens: as in `server_cost`.

    The gradient at its first block's input is always computed. Tables that the device holds for its
    embedding or its first blocks are not counted again.
    """
    part = _part(spec, spec.end, spec.depth, "server", tokens, train, incoming=True)
    shared = spec.width * spec.vocabulary if spec.tied else 0
    if spec.cut and spec.tail:
        shared += shared_parameters(spec)  # what the first blocks' table is
    return replace(part, parameters=part.parameters - shared)


def whole_cost(spec: ModelSpec, train: Train = "lora") -> Cost:
    """The unsplit model, as in federated learning or centralised training."""
    return _part(spec, 0, spec.depth, "whole", None, train)


def crossing_bytes(
    spec: ModelSpec, batch: int, tokens: int | None = None, bits: int = 32, cut: int | None = None
) -> int:
    """Bytes of a batch's activations (or their gradient) at the cut, without frame or labels.

    tokens: T', None for all. cut: None for `spec.cut`.
    """
    at = spec.cut if cut is None else cut
    count = spec.tokens_at(at) if tokens is None else tokens
    return -(-batch * count * spec.width_at(at) * bits // 8)


def memory_bytes(cost: Cost, spec: ModelSpec, batch: int, states: int = 2) -> int:
    """An estimate of the bytes that a machine that trains this part needs at its peak.

    The sum of: frozen weights; the adapter, its gradient and `states` optimiser numbers for each
    trained number (AdamW 2, SGD 0, SGD with momentum 1); activations kept for the backward pass of
    a batch; the working memory of the block that is being computed, taken as two widths and two MLP
    widths a token, or twice the largest map of a ResNet; and the logits of a language model, their
    softmax and its gradient.
    """
    trained = cost.adapter_bytes * (2 + states)
    if spec.residual is None:
        working = spec.tokens * 2 * (spec.width + spec.mlp_width)
    else:
        working = 2 * spec.residual.stem_map.numbers
    logits = _MORE_LOGITS * cost.logits_bytes
    held = batch * (cost.activation_bytes + FLOAT_BYTES * working + logits)
    return weight_bytes(cost, spec) + trained + held


def weight_bytes(cost: Cost, spec: ModelSpec) -> int:
    """Bytes of a part's frozen weights, with the scales of weights in few bits."""
    if spec.frozen_bits == 32:
        return cost.parameter_bytes
    low = cost.matrices * spec.frozen_bits // 8 + FLOAT_BYTES * cost.matrices // SHARE_A_SCALE
    return cost.parameter_bytes - FLOAT_BYTES * cost.matrices + low


def _part(
    spec: ModelSpec,
    first: int,
    last: int,
    side: Side,
    tokens: int | None,
    train: Train,
    incoming: bool = False,
) -> Cost:
    """The cost of blocks first ... last - 1, and of the embedding or the layers after the blocks
    that belong to `side`."""
    if train == "lora":
        check_train(spec, train)
    if spec.residual is not None:
        return cost_resnet.part_cost(spec, first, last, side, incoming=incoming)
    count = spec.tokens if tokens is None else tokens
    count_part = cost_lora.part_cost if train == "lora" else cost_full.part_cost
    return count_part(spec, first, last, side, count, incoming=incoming)
