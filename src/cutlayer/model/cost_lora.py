"""What a part of a transformer costs when LoRA and the head train and all else is frozen.

Gradients of activations flow through frozen layers, weights of LoRA and head get theirs, and
nothing is computed before the first LoRA layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cutlayer.model.families import ModelSpec
from cutlayer.model.parameter_counts import (
    FLOAT_BYTES,
    Cost,
    Linear,
    Side,
    block_linears,
    block_parameters,
    embedding_parameters,
    lora_parameters,
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
    work = _Work(live=incoming)
    if side != "server":
        parameters += embedding_parameters(spec)
        if spec.modality == "image":
            kernel = spec.channels * spec.patch_size**2
            work = replace(work, forward=2 * spec.patches * kernel * spec.width)
    for index in range(first, last):
        work = _block(spec, index, tokens, work)
    if side != "device":
        parameters += tail_parameters(spec)
        work = _tail(spec, tokens, work)
    return Cost(parameters, work.adapter, work.forward, work.backward, FLOAT_BYTES * work.saved)


@dataclass(frozen=True)
class _Work:
    """Running totals of one pass; `live` tells whether the hidden state needs a gradient."""

    live: bool
    adapter: int = 0
    forward: int = 0
    backward: int = 0
    saved: int = 0


def _block(spec: ModelSpec, index: int, tokens: int, work: _Work) -> _Work:
    """Add one block: follows which activations need a gradient, as autograd does."""
    width, square = spec.width, 2 * tokens**2 * spec.width
    q, k, v, output, *up, down = block_linears(spec)
    ranks = _ranks(spec, spec.block_name(index), (q, k, v, output, *up, down))

    qkv, live = _linears((q, k, v), ranks, tokens, work.live)
    from_q, from_k, from_v = live
    attended = any(live)
    # Gradients of V, of the attention, and of Q and K through it, as far as they are needed.
    attention = square * (from_v + (from_q or from_k) + from_q + from_k)
    # q, k, v, the output, and the log-sum-exp of each head; a LoRA that reads the output shares it.
    saved = attended * tokens * (4 * width + spec.heads)
    saved -= (attended and ranks[output.path] > 0) * tokens * width

    projected, (live_out,) = _linears((output,), ranks, tokens, attended)
    middle = work.live or live_out
    raised, live_up = _linears(tuple(up), ranks, tokens, middle)
    activated = any(live_up)
    # What the activation function saves; SwiGLU: the gate, its SiLU and the other factor.
    saved += activated * tokens * spec.mlp_width * (3 if spec.gated_mlp else 1)
    lowered, (live_down,) = _linears((down,), ranks, tokens, activated)
    end = middle or live_down
    # A norm saves its input, mean and deviation. BERT's come after the sums, others before.
    norms = middle + end if spec.parts.norm is None else work.live + middle
    saved += norms * tokens * (width + 2)

    layers = (qkv, projected, raised, lowered)
    return _Work(
        live=end,
        adapter=work.adapter + sum(x.adapter for x in layers),
        forward=work.forward + sum(x.forward for x in layers) + 2 * square,
        backward=work.backward + sum(x.backward for x in layers) + attention,
        saved=work.saved + sum(x.saved for x in layers) + saved,
    )


def _linears(
    group: tuple[Linear, ...], ranks: dict[str, int], tokens: int, live: bool
) -> tuple[_Work, list[bool]]:
    """Linear layers that read one input, and whether each one's output needs a gradient.

    ranks: of each layer's LoRA, 0 without. live: whether the input needs a gradient.
    """
    adapter = forward = backward = saved = 0
    for layer in group:
        rank = ranks[layer.path]
        frozen = 2 * tokens * layer.inputs * layer.outputs
        a, b = 2 * tokens * rank * layer.inputs, 2 * tokens * rank * layer.outputs
        adapter += lora_parameters(layer.inputs, layer.outputs, rank)
        forward += frozen + a + b
        # dA; dB and the gradient at A's output; and, if the input needs one, through W and A.
        backward += a + 2 * b + (frozen + a) * live
        saved += tokens * rank
    outputs = [live or ranks[layer.path] > 0 for layer in group]
    if any(ranks[layer.path] for layer in group):
        saved += tokens * group[0].inputs
    return _Work(live, adapter, forward, backward, saved), outputs


def _tail(spec: ModelSpec, tokens: int, work: _Work) -> _Work:
    """Add the final norm or pooler, and the trained head."""
    width, head = spec.width, 2 * spec.head_inputs * spec.num_classes
    added, live = _Work(work.live), work.live
    if spec.parts.norm is None:
        pooler = Linear("pooler.dense", width, width, True)
        ranks = _ranks(spec, spec.parts.base, (pooler,))
        added, (live,) = _linears((pooler,), ranks, 1, live)
    elif live:
        added = replace(added, saved=tokens * (width + 2))
    # The head's input; a slice, as of the CLS token, keeps all tokens.
    kept = tokens * width if spec.parts.pool == "cls" else spec.head_inputs
    return _Work(
        live=True,
        adapter=work.adapter + added.adapter + (spec.head_inputs + 1) * spec.num_classes,
        forward=work.forward + added.forward + head,
        backward=work.backward + added.backward + head * (1 + live),
        saved=work.saved + added.saved + kept,
    )


def _ranks(spec: ModelSpec, parent: str, layers: tuple[Linear, ...]) -> dict[str, int]:
    """The rank of the LoRA on each layer below the module `parent`, 0 where there is none."""
    return {
        layer.path: spec.lora.rank if spec.carries_lora(f"{parent}.{layer.path}") else 0
        for layer in layers
    }
