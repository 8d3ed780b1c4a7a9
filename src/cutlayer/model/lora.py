"""LoRA layers over one frozen backbone that take batches mixing many devices.

A batch is a row of segments; each segment of samples goes through its own adapter (see bank.py).
The frozen product is computed once for the whole batch, so M devices cost one backbone and M
adapters; those of equally large segments are one batched product (see stack.py).
LoRA: Hu et al. 2021, arXiv 2106.09685; names, scale and initialisation as in PEFT.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutlayer.errors import ModelError
from cutlayer.model.bank import AdapterBank, Segment, check_covers, merged
from cutlayer.model.family import Activation
from cutlayer.model.siblings import Siblings
from cutlayer.model.spec import ModelSpec, Train, match_targets
from cutlayer.model.stack import Run, split_by_runs
from cutlayer.seeds import torch_rng

Adapter = dict[str, Tensor]
Batch = dict[str, Tensor | None]
Tensors = tuple[Tensor | None, ...]
Piece = Callable[[Batch], Tensors]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "relu": F.relu,
}


class LoRALinear(nn.Module):
    """A frozen linear layer plus `scale * x A^T B^T` with each segment's own A [R,in], B [out,R].

    Samples whose adapter has no tensors of this layer go through the frozen layer alone. siblings:
    the layers that read the same input as this one, itself included.
    """

    def __init__(
        self,
        base: nn.Module,
        name: str,
        bank: AdapterBank,
        scale: float,
        dropout: float,
        siblings: Siblings,
    ) -> None:
        super().__init__()
        self.base = base
        self.keys = (f"{name}.lora_A.weight", f"{name}.lora_B.weight")
        self.bank = bank
        self.scale = scale
        self.dropout = dropout
        self.siblings = siblings
        siblings.keys.append(self.keys[0])

    def forward(self, x: Tensor) -> Tensor:
        """x [B,...,in] -> [B,...,out]."""
        y: Tensor = self.base(x)
        runs = self.bank.now.runs
        if not any(run.has(self.keys[0]) for run in runs):
            return y
        if self.dropout > 0:
            x = self.bank.dropped(x, self.dropout, self.keys[0])
        inner = self.siblings.inner(self.keys[0], x, runs)
        parts = [
            self._add(*piece) for piece in zip(split_by_runs(y, runs), inner, runs, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _add(self, y: Tensor, inner: Tensor | None, run: Run) -> Tensor:
        """y and the LoRA term of a run's samples."""
        if inner is None:
            return y
        b = run.stacked(self.keys[1])
        if len(b) == 1:
            flat = torch.addmm(y.reshape(-1, y.shape[-1]), inner, b[0].t(), alpha=self.scale)
            return flat.view_as(y)
        rows = y.reshape(len(b), -1, y.shape[-1])
        return torch.baddbmm(rows, inner, b.transpose(1, 2), alpha=self.scale).view_as(y)


class BankHead(nn.Module):
    """The trained classification head: every segment has its own linear layers.

    Layers have the names and the order of Hugging Face's model: a hidden layer with its activation
    if the family has one, then the layers that give logits, whose mean is taken.
    """

    def __init__(self, bank: AdapterBank, spec: ModelSpec) -> None:
        super().__init__()
        self.head = spec.parts.head
        self.activation = ACTIVATIONS[spec.head_activation]
        self.bank = bank

    def forward(self, x: Tensor) -> Tensor:
        """x [B,in], or [B,K,in] for K output layers -> logits [B,C]."""
        x = self.read(x)
        outputs = self.head.outputs
        if len(outputs) == 1:
            return self._linear(outputs[0], x)
        return torch.stack([self._linear(name, x[:, at]) for at, name in enumerate(outputs)]).mean(
            0
        )

    def read(self, x: Tensor) -> Tensor:
        """x [B,in], or [B,K,in] for K output layers -> the output layers' input, of that shape."""
        hidden = self.head.hidden
        return x if hidden is None else self.activation(self._linear(hidden, x))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        keys = f"{name}.weight", f"{name}.bias"
        runs = self.bank.now.runs
        if not all(run.has(key) for run in runs for key in keys):
            raise ModelError(f"adapter: {keys[0]} is missing: the head needs its own weights")
        pieces = zip(torch.split(x, [run.samples for run in runs]), runs, strict=True)
        parts = [_linear(piece, *(run.stacked(key) for key in keys)) for piece, run in pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _linear(x: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
    """x [n b,...,in] through n linear layers, b samples each: [n b,...,out]."""
    if len(weights) == 1:
        return F.linear(x, weights[0], biases[0])
    rows = x.reshape(len(weights), -1, x.shape[-1])
    flat = torch.baddbmm(biases.unsqueeze(1), rows, weights.transpose(1, 2))
    return flat.view(*x.shape[:-1], -1)


class LoraWeights:
    """Trains LoRA on chosen linear layers, and the head; all else is frozen.

    layers: the linear layers that `model.lora.targets` matches, by name, with (inputs, outputs),
    also of a part that is not loaded. Raises ModelError when `model.lora.side` has none of them.
    """

    train: Train = "lora"

    def __init__(
        self,
        module: nn.Module,
        spec: ModelSpec,
        layers: dict[str, tuple[int, int]],
        bank: AdapterBank,
    ) -> None:
        self.spec = spec
        self.bank = bank
        self.layers = {name: shape for name, shape in layers.items() if spec.carries_lora(name)}
        if not self.layers:
            raise ModelError(
                f"model.lora.side: {spec.lora.side!r} has no blocks at cut {spec.cut} of "
                f"{spec.depth}: move model.cut or take side both"
            )
        held = dict(module.named_modules())
        here = [name for name in self.layers if name in held]
        attach(module, here, self.bank, spec.lora.alpha / spec.lora.rank, spec.lora.dropout)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of an adapter, by key."""
        rank = self.spec.lora.rank
        shapes: dict[str, tuple[int, ...]] = {}
        for name, (inputs, outputs) in self.layers.items():
            shapes[f"{name}.lora_A.weight"] = (rank, inputs)
            shapes[f"{name}.lora_B.weight"] = (outputs, rank)
        return shapes | head_shapes(self.spec)

    def fresh(self, seed: int) -> Adapter:
        """A kaiming-uniform (a = sqrt 5), B zero, as in PEFT; head as `fresh_head`."""
        adapter = {key: torch.zeros(shape) for key, shape in self.shapes().items()}
        for key, tensor in adapter.items():
            if key.endswith(".lora_A.weight"):
                nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=torch_rng(seed, key))
        return adapter | fresh_head(self.spec, seed)

    def trained(self, name: str) -> bool:
        """Always true: all that an adapter holds is trained."""
        return True

    def run(self, route: Sequence[Segment], batch: Batch, piece: Piece) -> Tensors:
        """Run the whole batch at once, or segment after segment where the family needs that."""
        if self.spec.parts.one_adapter_a_pass:
            return one_by_one(merged(route), batch, self._run_one(piece))
        with self.bank.use(route, rows_of(batch)):
            return piece(batch)

    def _run_one(self, piece: Piece) -> Callable[[Segment, Batch], Tensors]:
        def run(segment: Segment, batch: Batch) -> Tensors:
            with self.bank.use([segment], segment.size):
                return piece(batch)

        return run


def head_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of the head, by key."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (inputs, outputs) in spec.head_layers.items():
        shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    return shapes


def fresh_head(spec: ModelSpec, seed: int) -> Adapter:
    """A new classification head: weights normal(0, 0.02), biases zero, from (seed, their names)."""
    head = {key: torch.zeros(shape) for key, shape in head_shapes(spec).items()}
    for key, tensor in head.items():
        if key.endswith(".weight"):
            nn.init.normal_(tensor, std=0.02, generator=torch_rng(seed, key))
    return head


def with_outputs(spec: ModelSpec, head: Adapter, weight: Tensor, bias: Tensor) -> Adapter:
    """`head` with output layers that give the logits of `weight` [C,K in] and `bias` [C].

    weight and bias are for what `CutModel.features` gives; K output layers are averaged.
    """
    outputs = spec.parts.head.outputs
    parts = (weight * len(outputs)).chunk(len(outputs), dim=1)
    given = {f"{name}.weight": part for name, part in zip(outputs, parts, strict=True)}
    return head | given | {f"{name}.bias": bias for name in outputs}


def one_by_one(
    segments: Sequence[Segment], batch: Batch, run: Callable[[Segment, Batch], Tensors]
) -> Tensors:
    """What `run` gives for each segment and its samples, joined in the batch's order.

    Raises ModelError when the segments do not cover the batch.
    """
    check_covers(segments, rows_of(batch))
    sizes = [segment.size for segment in segments]
    pieces = {key: None if t is None else torch.split(t, sizes) for key, t in batch.items()}
    results = [
        run(segment, {key: None if parts is None else parts[at] for key, parts in pieces.items()})
        for at, segment in enumerate(segments)
    ]
    if len(results) == 1:
        return results[0]
    return tuple(_joined(column) for column in zip(*results, strict=True))


def _joined(column: Tensors) -> Tensor | None:
    present = [tensor for tensor in column if tensor is not None]
    return torch.cat(present) if present else None


def rows_of(batch: Batch) -> int:
    """How many samples a batch holds."""
    return next(len(tensor) for tensor in batch.values() if tensor is not None)


def find_targets(model: nn.Module, spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """The linear layers that the job's targets match, by name: (inputs, outputs), in model order.

    The head is not among them, since it is trained whole. Raises ModelError when a target matches
    no linear layer.
    """
    targets: str | Sequence[str] = spec.targets
    head = spec.parts.head.modules
    linear = {
        name: shape
        for name, module in model.named_modules()
        if (shape := _sizes(module)) is not None and name.split(".")[0] not in head
    }
    for target in [targets] if isinstance(targets, str) else targets:
        rule = target if isinstance(targets, str) else (target,)
        if not any(match_targets(name, rule) for name in linear):
            endings = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise ModelError(
                f"model.lora.targets: {target!r} is no linear layer of this model: "
                f"take names ending in {', '.join(endings)}"
            )
    return {name: shape for name, shape in linear.items() if match_targets(name, targets)}


def _sizes(module: nn.Module) -> tuple[int, int] | None:
    """(inputs, outputs) of a linear layer; None for any other module."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):  # GPT-2's
        return module.nx, module.nf
    return None


_READ_TOGETHER = ("query", "key", "value",
                  "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin")  # fmt: skip
"""Names of layers that read the input of a block's attention and nothing else.

DeBERTa's are not among them, since its layers also read positions."""


def attach(
    model: nn.Module, names: Sequence[str], bank: AdapterBank, scale: float, dropout: float
) -> None:
    """Put a LoRALinear in place of each linear layer in `names`."""
    together: dict[str, Siblings] = {}
    for name in names:
        path, _, leaf = name.rpartition(".")
        parent = model.get_submodule(path)
        base = getattr(parent, leaf)
        siblings = Siblings()
        # With dropout each layer has its own mask, and so its own input.
        if leaf in _READ_TOGETHER and not dropout:
            siblings = together.setdefault(path, siblings)
        bank.siblings[id(siblings)] = siblings
        setattr(parent, leaf, LoRALinear(base, name, bank, scale, dropout, siblings))
