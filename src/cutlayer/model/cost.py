"""What each part of a cut model costs, in closed form from its config: nothing is loaded.

FLOPs count matrix products and convolutions, 2mnk each, as torch.utils.flop_counter does; norms,
softmax and activation functions are left out, as is the recomputation that fused attention
kernels do in the backward pass. Backward is that of LoRA training: gradients of activations flow
through frozen layers, weights of LoRA and head get theirs, and nothing is computed before the
first LoRA layer. Numbers are for one sample unless a batch is named.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from cutlayer.model.families import ModelSpec

Side = Literal["device", "server", "whole"]
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """One part of a model.

    parameters: frozen numbers held. adapter_parameters: trained numbers (LoRA; the head with the
    server). forward_flops, backward_flops: a sample. activation_bytes: what the forward pass of a
    sample leaves in memory for the backward pass: inputs of norms, of LoRA layers and of
    activation functions, queries, keys, values and output of attention, in float32; without
    LoRA dropout's masks.
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


def device_cost(spec: ModelSpec, cut: int) -> Cost:
    """Embedding and the first `cut` blocks."""
    return _part(spec, 0, cut, "device", spec.tokens, incoming=False)


def server_cost(spec: ModelSpec, cut: int, tokens: int | None = None) -> Cost:
    """Blocks from `cut` on, final norm, pooler and head.

    tokens: T', those that crossed the cut, prefix included; None for all. The gradient at the cut
    is computed if a device has LoRA to train.
    """
    count = spec.tokens if tokens is None else tokens
    incoming = device_cost(spec, cut).adapter_parameters > 0
    return _part(spec, cut, spec.depth, "server", count, incoming=incoming)


def whole_cost(spec: ModelSpec) -> Cost:
    """The unsplit model, as in federated LoRA or centralised training."""
    return _part(spec, 0, spec.depth, "whole", spec.tokens, incoming=False)


def crossing_bytes(spec: ModelSpec, batch: int, tokens: int | None = None, bits: int = 32) -> int:
    """Bytes of a batch's activations (or their gradient) at the cut, without frame or labels."""
    count = spec.tokens if tokens is None else tokens
    return -(-batch * count * spec.width * bits // 8)


def memory_bytes(cost: Cost, spec: ModelSpec, batch: int, states: int = 2) -> int:
    """An estimate of what a machine that trains this part holds at its peak.

    Frozen weights; adapter with its gradient and `states` optimiser numbers each (AdamW 2, SGD 0,
    with momentum 1); activations held for the backward pass of a batch; and the working set of
    the block in computation, taken as two widths and two MLP widths a token.
    """
    trained = cost.adapter_bytes * (2 + states)
    working = FLOAT_BYTES * spec.tokens * 2 * (spec.width + spec.mlp_width)
    return cost.parameter_bytes + trained + batch * (cost.activation_bytes + working)


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


@dataclass(frozen=True)
class _Work:
    """Running totals of one pass; `live` tells whether the hidden state needs a gradient."""

    live: bool
    adapter: int = 0
    forward: int = 0
    backward: int = 0
    saved: int = 0


def _part(
    spec: ModelSpec, first: int, last: int, side: Side, tokens: int, *, incoming: bool
) -> Cost:
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
