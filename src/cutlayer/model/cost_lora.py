"""What a part of a transformer costs when LoRA and the head train and all else is frozen.

Gradients of activations flow back through frozen layers to the first LoRA layer and no further;
the weights of LoRA and the head get gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cutlayer.model.parameter_counts import (
    FLOAT_BYTES,
    Blocks,
    Cost,
    Side,
    blocks_parameters,
    copies_attended,
    embedding_flops,
    embedding_parameters,
    head_entry_flops,
    head_flops,
    head_parameters,
    lora_parameters,
    tail_parameters,
)
from cutlayer.model.spec import Linear, ModelSpec


def part_cost(
    spec: ModelSpec, first: int, last: int, side: Side, tokens: int, *, incoming: bool
) -> Cost:
    """The cost of blocks first ... last - 1, and of the layers before or after them on `side`.

    tokens: how many go through the blocks. incoming: whether a gradient must be computed for the
    first block's input.
    """
    parameters = blocks_parameters(spec, first, last)
    work = _Work(live=incoming)
    if side in ("device", "whole"):
        parameters += embedding_parameters(spec)
        work = replace(work, forward=embedding_flops(spec))
    blocks = Blocks()
    for index in range(first, last):
        before, work = work, _block(spec, index, tokens, work)
        kept = FLOAT_BYTES * (work.saved - before.saved)
        if kept:
            read = FLOAT_BYTES * tokens * spec.width
            blocks += Blocks(kept, kept, read, work.forward - before.forward)
    has_head = side in ("server", "whole")
    if has_head:
        parameters += tail_parameters(spec)
        if side == "whole" and spec.tied:
            parameters -= spec.width * spec.vocabulary  # one table for embedding and head
        tail = _language_tail if spec.parts.language else _tail
        work = tail(spec, tokens, work)
    saved = FLOAT_BYTES * work.saved
    matrices = (last - first) * sum(one.inputs * one.outputs for one in spec.linears)
    logits = FLOAT_BYTES * tokens * spec.vocabulary if spec.parts.language and has_head else 0
    done = (work.adapter, work.forward, work.backward, saved)
    return Cost(parameters, *done, blocks, matrices, logits)


@dataclass(frozen=True)
class _Work:
    """Running totals of one pass; `live`: whether the hidden state needs a gradient."""

    live: bool
    adapter: int = 0
    forward: int = 0
    backward: int = 0
    saved: int = 0


def _block(spec: ModelSpec, index: int, tokens: int, work: _Work) -> _Work:
    """Add one block: follows which activations need a gradient, as autograd does."""
    width, square = spec.width, 2 * tokens**2 * spec.attention_width
    ranks = _ranks(spec, spec.block_name(index), spec.linears)
    readers = tuple(x for x in spec.linears if x.role in ("query", "key", "value", "fused"))
    (output,) = (x for x in spec.linears if x.role == "output")
    ups = tuple(x for x in spec.linears if x.role == "up")
    (down,) = (x for x in spec.linears if x.role == "down")

    qkv, live = _linears(readers, ranks, tokens, work.live)
    from_q, from_k, from_v = live * 3 if spec.parts.fused else live
    places = _places(spec, index, ranks, tokens, from_q, from_k)
    from_scores = from_q or from_k or places.live
    attended = from_scores or from_v
    # Gradients of V, of the attention, and of Q and K through it, as far as they are needed.
    attention = square * (from_v + from_scores + from_q + from_k)
    saved = attended * _attention_saved(spec, tokens)
    if attended and ranks[output.path] and not copies_attended(spec):
        saved -= tokens * spec.attention_width  # a LoRA that reads the output shares it

    projected, (live_out,) = _linears((output,), ranks, tokens, attended)
    middle = work.live or live_out
    raised, live_up = _linears(ups, ranks, tokens, middle)
    activated = any(live_up)
    # What the activation function saves; gated: the gate, its SiLU and the other factor.
    saved += activated * tokens * spec.mlp_width * (3 if spec.gated_mlp else spec.activation_keeps)
    lowered, (live_down,) = _linears((down,), ranks, tokens, activated)
    end = middle or live_down
    # A norm saves its input, mean and deviation. Norms come before the layers or after the sums.
    first_norm = work.live and (index > 0 or spec.parts.first_norm)
    norms = middle + end if spec.parts.post_norm else first_norm + middle
    saved += norms * tokens * (width + 2)

    layers = (qkv, places, projected, raised, lowered)
    return _Work(
        live=end,
        adapter=work.adapter + sum(x.adapter for x in layers),
        forward=work.forward + sum(x.forward for x in layers) + 2 * square,
        backward=work.backward + sum(x.backward for x in layers) + attention,
        saved=work.saved + sum(x.saved for x in layers) + saved,
    )


def _attention_saved(spec: ModelSpec, tokens: int) -> int:
    """How many numbers attention keeps: q, k, v, the output, and the log-sum-exp of each head.

    Keys and values that heads share count once for each of these heads, since a padded batch
    repeats them in memory, unless there is a single one.

    With relative positions, attention is made of single operations, which keep q, k, the scaled k,
    v, the attention and the projected positions.
    """
    relative = spec.relative
    if relative is not None:
        looked_up = relative.rows * (relative.to_position + relative.to_content)
        kept = (4 * tokens + looked_up) * spec.attention_width
        return kept + tokens**2 * spec.heads
    one = spec.key_width == spec.attention_width // spec.heads
    kept = spec.key_width if one else spec.attention_width
    saved = tokens * (2 * spec.attention_width + 2 * kept + spec.heads)
    if spec.parts.head_norms:
        # The outputs of the linear layers, and the deviation of each head.
        numbers = spec.attention_width + spec.key_width
        saved += tokens * (numbers + numbers * spec.heads // spec.attention_width)
    if spec.parts.fused is not None and spec.parts.rotates:
        # v is a view that keeps the fused layer's whole output; rotated q and k are new.
        saved += tokens * 2 * spec.attention_width
    return saved


def _places(
    spec: ModelSpec, index: int, ranks: dict[str, int], tokens: int, from_q: bool, from_k: bool
) -> _Work:
    """The part of attention that looks up relative positions, counted as for a batch of one.

    The table is frozen and the same for all samples; its projections may carry LoRA.
    """
    relative = spec.relative
    if relative is None:
        return _Work(live=False)
    works = []
    for wanted, own, query, from_content in (
        (relative.to_position, "attention.self.pos_key_proj", False, from_q),
        (relative.to_content, "attention.self.pos_query_proj", True, from_k),
    ):
        if not wanted and not relative.shared:
            continue
        path = (spec.parts.query if query else spec.parts.key) if relative.shared else own
        linear = Linear(path, spec.width, spec.attention_width, True, "query" if query else "key")
        rank = ranks.get(path) or _ranks(spec, spec.block_name(index), (linear,))[path]
        work, (live,) = _linears((linear,), {path: rank}, relative.rows, False)
        if not wanted:  # computed although nothing uses it
            works.append(_Work(live=False, forward=work.forward))
            continue
        product = 2 * tokens * relative.rows * spec.attention_width
        works.append(
            replace(
                work,
                live=live or from_content,
                adapter=0 if relative.shared else work.adapter,
                forward=work.forward + product,
                backward=work.backward + product * (live + from_content),
            )
        )
    return _Work(
        live=any(work.live for work in works),
        adapter=sum(work.adapter for work in works),
        forward=sum(work.forward for work in works) + _conv_flops(spec, index, tokens),
        backward=sum(work.backward for work in works),
        saved=sum(work.saved for work in works),
    )


def _conv_flops(spec: ModelSpec, index: int, tokens: int) -> int:
    """FLOPs of the convolution beside the first block; it reads the frozen embedding."""
    relative = spec.relative
    if relative is None or index or not relative.conv:
        return 0
    return 2 * tokens * (relative.conv - 3 * spec.width)


def _linears(
    group: tuple[Linear, ...], ranks: dict[str, int], tokens: int, live: bool
) -> tuple[_Work, list[bool]]:
    """The work of linear layers that read one input, and whether each output needs a gradient.

    ranks: of each layer's LoRA, 0 for a layer without. live: whether the input needs a gradient.
    """
    adapter = forward = backward = saved = 0
    for layer in group:
        rank = ranks[layer.path]
        frozen = 2 * tokens * layer.inputs * layer.outputs
        a, b = 2 * tokens * rank * layer.inputs, 2 * tokens * rank * layer.outputs
        adapter += lora_parameters(layer.inputs, layer.outputs, rank)
        forward += frozen + a + b
        # The gradients of A, of B and of A's output; if the input needs one, also those through
        # W and A.
        backward += a + 2 * b + (frozen + a) * live
        saved += tokens * rank
    outputs = [live or ranks[layer.path] > 0 for layer in group]
    if any(ranks[layer.path] for layer in group):
        saved += tokens * group[0].inputs
    return _Work(live, adapter, forward, backward, saved), outputs


def _tail(spec: ModelSpec, tokens: int, work: _Work) -> _Work:
    """Add the final norm, the layers between it and the head, and the trained head."""
    family, width = spec.parts, spec.width
    added, live = _Work(work.live), work.live
    if live and family.norm is not None:
        added = replace(added, saved=tokens * (width + 2))
    if family.neck_linear is not None:
        neck = Linear(family.neck_linear, width, width, spec.neck_bias, "output")
        ranks = {neck.path: spec.lora.rank if spec.carries_lora(neck.path) else 0}
        through, (live,) = _linears((neck,), ranks, 1, live)
        through = replace(through, saved=through.saved + live * family.neck_norm * (2 * width + 2))
        added = replace(through, saved=through.saved + added.saved)
    sliced = family.neck is None and not spec.pool_mean and family.pool != "cls+mean"
    # The head's input; a slice, such as the CLS token, keeps all tokens in memory.
    kept = tokens * width if sliced else spec.head_inputs
    if family.head.hidden is not None:
        kept += width * (2 if spec.head_activation == "gelu" else 1)
    still = 0 if live else head_entry_flops(spec)
    return _Work(
        live=True,
        adapter=work.adapter + added.adapter + head_parameters(spec),
        forward=work.forward + added.forward + head_flops(spec),
        backward=work.backward + added.backward + 2 * head_flops(spec) - still,
        saved=work.saved + added.saved + kept,
    )


def _language_tail(spec: ModelSpec, tokens: int, work: _Work) -> _Work:
    """Add the final norm, the frozen head, and the logits of every token, which the loss keeps."""
    product = 2 * tokens * spec.width * spec.vocabulary
    return replace(
        work,
        forward=work.forward + product,
        backward=work.backward + product * work.live,
        saved=work.saved + work.live * tokens * (spec.width + 2 + spec.vocabulary),
    )


def _ranks(spec: ModelSpec, parent: str, layers: tuple[Linear, ...]) -> dict[str, int]:
    """The rank of the LoRA on each layer below the module `parent`, 0 where there is none."""
    return {
        layer.path: spec.lora.rank if spec.carries_lora(f"{parent}.{layer.path}") else 0
        for layer in layers
    }
