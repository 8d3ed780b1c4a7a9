"""LoRA layers over one frozen backbone that take batches mixing many devices: the adapter bank.

A batch is a row of segments; each segment of samples goes through its own adapter. The frozen
product is computed once for the whole batch, so M devices cost one backbone and M adapters.
LoRA: Hu et al. 2021, arXiv 2106.09685; names, scale and initialisation as in PEFT.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutlayer.errors import ModelError
from cutlayer.model.families import ModelSpec, Train, match_targets
from cutlayer.seeds import torch_rng

Adapter = dict[str, Tensor]
Batch = dict[str, Tensor | None]
Tensors = tuple[Tensor | None, ...]
Piece = Callable[[Batch], Tensors]
HEAD = "classifier"


@dataclass(frozen=True)
class Segment:
    """`size` consecutive samples of a batch that go through `adapter`.

    rng: draws the LoRA dropout of this segment, so that a device's masks do not depend on who
    shares its batch; None runs without dropout, as in evaluation.
    """

    adapter: Adapter
    size: int
    rng: torch.Generator | None = None


class AdapterBank:
    """Holds the route: which adapter each sample of the current batch goes through."""

    def __init__(self) -> None:
        self.route: tuple[Segment, ...] = ()

    @contextmanager
    def use(self, route: Sequence[Segment], rows: int) -> Iterator[None]:
        """Send batches of `rows` samples along `route` within the `with` block."""
        segments = merged(route)
        check_covers(segments, rows)
        before, self.route = self.route, segments
        try:
            yield
        finally:
            self.route = before


class LoRALinear(nn.Module):
    """A frozen linear layer plus `scale * x A^T B^T` with each segment's own A [R,in], B [out,R].

    Adapters without this layer's name pass through the frozen layer alone.
    """

    def __init__(
        self, base: nn.Linear, name: str, bank: AdapterBank, scale: float, dropout: float
    ) -> None:
        super().__init__()
        self.base = base
        self.keys = (f"{name}.lora_A.weight", f"{name}.lora_B.weight")
        self.bank = bank
        self.scale = scale
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """x [B,...,in] -> [B,...,out]."""
        y: Tensor = self.base(x)
        route = self.bank.route
        a, b = self.keys
        pairs = [(s.adapter[a], s.adapter[b]) if a in s.adapter else None for s in route]
        if not any(pairs):
            return y
        if self.dropout > 0:
            x = _drop(x, route, self.dropout)
        present = [pair for pair in pairs if pair is not None]
        rank = {pair[0].shape[0] for pair in present}
        if len(present) > 1 and len(present) == len(route) and _even(route) and len(rank) == 1:
            return self._stacked(x, y, present)
        sizes = [s.size for s in route]
        parts = [
            part if pair is None else self._one(piece, part, *pair)
            for piece, part, pair in zip(
                torch.split(x, sizes), torch.split(y, sizes), pairs, strict=True
            )
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _one(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        inner = x.reshape(-1, x.shape[-1]) @ a.t()
        flat = torch.addmm(y.reshape(-1, y.shape[-1]), inner, b.t(), alpha=self.scale)
        return flat.view_as(y)

    def _stacked(self, x: Tensor, y: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The LoRA term of all segments at once, which are of one size."""
        count = len(pairs)
        a = torch.stack([pair[0] for pair in pairs])
        b = torch.stack([pair[1] for pair in pairs])
        inner = torch.bmm(x.reshape(count, -1, x.shape[-1]), a.transpose(1, 2))
        flat = torch.baddbmm(
            y.reshape(count, -1, y.shape[-1]), inner, b.transpose(1, 2), alpha=self.scale
        )
        return flat.view_as(y)


class BankHead(nn.Module):
    """The trained classification head: every segment has its own weight [C,in] and bias [C].

    name: of the linear layer in Hugging Face's model, and so of its tensors in an adapter.
    """

    def __init__(self, bank: AdapterBank, name: str = HEAD) -> None:
        super().__init__()
        self.keys = (f"{name}.weight", f"{name}.bias")
        self.bank = bank

    def forward(self, x: Tensor) -> Tensor:
        """x [B,in] -> logits [B,C]."""
        route = self.bank.route
        if not all(key in s.adapter for s in route for key in self.keys):
            raise ModelError(f"adapter: {self.keys[0]} is missing: the head needs its own weights")
        parts = [
            F.linear(piece, s.adapter[self.keys[0]], s.adapter[self.keys[1]])
            for piece, s in zip(torch.split(x, [s.size for s in route]), route, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class LoraWeights:
    """Trains LoRA on chosen linear layers, and the head; all else is frozen.

    layers: the linear layers that `model.lora.targets` takes, by name, with (inputs, outputs); all
    of them, also those of a part that is not loaded. Raises ModelError when none is left on
    `model.lora.side`.
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
        shapes[f"{HEAD}.weight"] = (self.spec.num_classes, self.spec.head_inputs)
        shapes[f"{HEAD}.bias"] = (self.spec.num_classes,)
        return shapes

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
        """Compute `piece` for the whole batch at once, each sample with its own adapter."""
        with self.bank.use(route, rows_of(batch)):
            return piece(batch)


def fresh_head(spec: ModelSpec, seed: int) -> Adapter:
    """A new classification head: weight normal(0, 0.02), bias zero, from (seed, its name)."""
    key = f"{spec.parts.head}.weight"
    weight = torch.zeros(spec.num_classes, spec.head_inputs)
    nn.init.normal_(weight, std=0.02, generator=torch_rng(seed, key))
    return {key: weight, f"{spec.parts.head}.bias": torch.zeros(spec.num_classes)}


def check_covers(route: Sequence[Segment], rows: int) -> None:
    """Raise ModelError unless the segments are as long as the batch."""
    total = sum(segment.size for segment in route)
    if total != rows:
        raise ModelError(f"route: its segments hold {total} samples but the batch has {rows}")


def rows_of(batch: Batch) -> int:
    """How many samples a batch holds."""
    return next(len(tensor) for tensor in batch.values() if tensor is not None)


def find_targets(model: nn.Module, targets: str | Sequence[str]) -> dict[str, tuple[int, int]]:
    """The linear layers that `targets` take, by name: (inputs, outputs), in the model's order.

    The head is not among them, since it is trained whole. Raises ModelError when a target takes
    no linear layer.
    """
    linear = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[0] != HEAD
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


def attach(
    model: nn.Module, names: Sequence[str], bank: AdapterBank, scale: float, dropout: float
) -> None:
    """Put a LoRALinear in place of each linear layer in `names`, and a BankHead for the head."""
    for name in names:
        path, _, leaf = name.rpartition(".")
        parent = model.get_submodule(path)
        base = getattr(parent, leaf)
        setattr(parent, leaf, LoRALinear(base, name, bank, scale, dropout))
    setattr(model, HEAD, BankHead(bank))


def merged(route: Sequence[Segment]) -> tuple[Segment, ...]:
    """`route` without empty segments, and with neighbours on one adapter made one."""
    joined: list[Segment] = []
    for segment in route:
        if segment.size == 0:
            continue
        last = joined[-1] if joined else None
        if last and last.adapter is segment.adapter and last.rng is segment.rng is None:
            joined[-1] = Segment(last.adapter, last.size + segment.size)
        else:
            joined.append(segment)
    return tuple(joined)


def _even(route: Sequence[Segment]) -> bool:
    return all(s.size == route[0].size for s in route)


def _drop(x: Tensor, route: Sequence[Segment], p: float) -> Tensor:
    """Inverted dropout of x [B,...], each segment's mask from its own generator."""
    if all(s.rng is None for s in route):
        return x
    masks = []
    for s in route:
        shape = (s.size, *x.shape[1:])
        if s.rng is None:
            masks.append(x.new_ones(shape))
            continue
        draw = torch.rand(shape, generator=s.rng, device=s.rng.device)
        masks.append((draw >= p).to(device=x.device, dtype=x.dtype) / (1 - p))
    return x * torch.cat(masks)
