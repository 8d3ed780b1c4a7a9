"""The adapter bank: LoRA layers over one frozen backbone that take batches mixing many devices.

A batch is a row of segments; each segment of samples goes through its own adapter. The frozen
product is computed once for the whole batch, so M devices cost one backbone and M adapters.
LoRA: Hu et al. 2021, arXiv 2106.09685; names, scale and initialisation as in PEFT.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutlayer.errors import ModelError
from cutlayer.model.families import match_targets

Adapter = dict[str, Tensor]
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
        segments = _merged(route)
        total = sum(segment.size for segment in segments)
        if total != rows:
            raise ModelError(f"route: its segments hold {total} samples but the batch has {rows}")
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
        """All segments at once; they are of one size."""
        count = len(pairs)
        a = torch.stack([pair[0] for pair in pairs])
        b = torch.stack([pair[1] for pair in pairs])
        inner = torch.bmm(x.reshape(count, -1, x.shape[-1]), a.transpose(1, 2))
        flat = torch.baddbmm(
            y.reshape(count, -1, y.shape[-1]), inner, b.transpose(1, 2), alpha=self.scale
        )
        return flat.view_as(y)


class BankHead(nn.Module):
    """The trained classification head: every segment has its own weight [C,in] and bias [C]."""

    def __init__(self, bank: AdapterBank) -> None:
        super().__init__()
        self.keys = (f"{HEAD}.weight", f"{HEAD}.bias")
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


def _merged(route: Sequence[Segment]) -> tuple[Segment, ...]:
    """`route` without empty segments, and with neighbours on one adapter made one."""
    merged: list[Segment] = []
    for segment in route:
        if segment.size == 0:
            continue
        last = merged[-1] if merged else None
        if last and last.adapter is segment.adapter and last.rng is segment.rng is None:
            merged[-1] = Segment(last.adapter, last.size + segment.size)
        else:
            merged.append(segment)
    return tuple(merged)


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
