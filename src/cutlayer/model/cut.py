"""A pretrained transformer cut between two blocks: the device's part, the server's, or both.

Hugging Face's own modules compute everything; here they are called piece by piece. All weights
are frozen; what trains is in the adapters of the route (see lora.py).
Shapes: B batch, T tokens (prefix included), N tokens after the prefix, D width, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cutlayer.errors import ModelError
from cutlayer.model import attention, lora
from cutlayer.model.families import ModelSpec
from cutlayer.model.lora import HEAD, Adapter, AdapterBank, Segment
from cutlayer.seeds import torch_rng

__all__ = ["Activations", "Adapter", "CutModel", "Part", "Segment"]

Part = Literal["whole", "device", "server"]

Score = Literal["cls", "received"]
Route = Sequence[Segment]


@dataclass(frozen=True)
class Activations:
    """What a device computes for a batch.

    hidden [B,T,D]; mask [B,T] bool (False is padding) or None; scores [B,N] or None: the
    attention each token after the prefix gets, with its graph attached.
    """

    hidden: Tensor
    mask: Tensor | None
    scores: Tensor | None


class CutModel:
    """One frozen backbone (or a part of it) that computes for any number of adapters.

    module: Hugging Face's classification model. layers: the linear layers that carry LoRA, by
    name, with (inputs, outputs); all of them, also those of a part that is not loaded.
    """

    def __init__(
        self, module: nn.Module, spec: ModelSpec, layers: dict[str, tuple[int, int]], part: Part
    ) -> None:
        family = spec.parts
        self.module = module
        self.spec = spec
        self.part = part
        self.bank = AdapterBank()
        self._base: Any = module.get_submodule(family.base)
        self._blocks: Any = self._base.get_submodule(family.blocks)
        held = {"whole": (0, spec.depth + 1), "device": (0, spec.cut)}
        first, last = held.get(part, (spec.cut, spec.depth + 1))
        self.layers = {name: shape for name, shape in layers.items() if spec.carries_lora(name)}
        if not self.layers:
            raise ModelError(
                f"model.lora.side: {spec.lora.side!r} has no blocks at cut {spec.cut} of "
                f"{spec.depth}: move model.cut or take side both"
            )
        lora.attach(
            module,
            [name for name in self.layers if first <= spec.position(name) < last],
            self.bank,
            scale=spec.lora.alpha / spec.lora.rank,
            dropout=spec.lora.dropout,
        )
        module.eval()
        self._head: Any = module.get_submodule(HEAD)
        self._probe = next(module.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the backbone and of new adapters."""
        return self._probe.dtype

    @property
    def compute(self) -> torch.device:
        """The torch device that holds the backbone (`device` means a party of the fleet)."""
        return self._probe.device

    def to(self, device: torch.device | str) -> CutModel:
        """Move the backbone to `device`; adapters and activations are the caller's to move."""
        self.module.to(device)
        self._probe = next(self.module.parameters())
        return self

    def new_adapter(self, seed: int) -> Adapter:
        """A fresh adapter: A kaiming-uniform (a = sqrt 5), B zero as in PEFT; head normal(0, .02).

        Every tensor is drawn from (seed, its name), so a part's tensors are those of the whole.
        """
        adapter: Adapter = {}
        for key, shape in self.shapes().items():
            tensor = torch.zeros(shape)
            if key.endswith(".lora_A.weight"):
                nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=torch_rng(seed, key))
            elif key == f"{HEAD}.weight":
                nn.init.normal_(tensor, std=0.02, generator=torch_rng(seed, key))
            adapter[key] = tensor.to(device=self.compute, dtype=self.dtype)
        return adapter

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

    def device_names(self, cut: int) -> tuple[str, ...]:
        """The adapter's keys that the device holds when cut after block `cut`."""
        return tuple(key for key in self.shapes() if self.spec.position(key) < cut)

    def server_names(self, cut: int) -> tuple[str, ...]:
        """The adapter's keys that the server holds, the head's among them."""
        return tuple(key for key in self.shapes() if self.spec.position(key) >= cut)

    def device_forward(
        self, inputs: dict[str, Tensor], cut: int, route: Route, score: Score | None = None
    ) -> Activations:
        """Embedding and the first `cut` blocks.

        inputs: pixel_values [B,C,H,W], or input_ids and attention_mask [B,T].
        score: "cls" ranks tokens by the CLS query's attention in the last of those blocks,
        "received" by the mean attention of all queries. Raises ModelError for a score at cut 0.
        """
        self._check(cut)
        if score is not None and cut == 0:
            raise ModelError(
                "model.cut: 0 leaves the device no attention to choose tokens by: "
                "cut after block 1 or later, or keep all tokens"
            )
        hidden, mask = self._embed(inputs)
        with self.bank.use(route, hidden.shape[0]):
            if score is None:
                return Activations(self._run(hidden, mask, 0, cut), mask, None)
            hidden = self._run(hidden, mask, 0, cut - 1)
            block = self._blocks[cut - 1]
            family = self.spec.parts
            with attention.capture(
                block.get_submodule(family.query), block.get_submodule(family.key)
            ) as seen:
                hidden = self._run(hidden, mask, cut - 1, cut)
        measure = attention.cls_scores if score == "cls" else attention.received_scores
        scores = measure(seen["q"], seen["k"], self.spec.heads, self.spec.prefix, mask)
        return Activations(hidden, mask, scores)

    def server_forward(self, hidden: Tensor, mask: Tensor | None, cut: int, route: Route) -> Tensor:
        """Blocks from `cut` on, final norm and head: hidden [B,T',D] -> logits [B,C].

        T' may be smaller than T: tokens after the prefix may have been dropped or merged.
        mask [B,T'] bool: False is padding.
        """
        self._check(cut)
        with self.bank.use(route, hidden.shape[0]):
            hidden = self._run(hidden, mask, cut, self.spec.depth)
            return self._finish(hidden)

    def forward(self, inputs: dict[str, Tensor], route: Route) -> Tensor:
        """The unsplit model: logits [B,C]."""
        hidden, mask = self._embed(inputs)
        with self.bank.use(route, hidden.shape[0]):
            return self._finish(self._run(hidden, mask, 0, self.spec.depth))

    __call__ = forward

    def _embed(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """hidden [B,T,D] and the padding mask [B,T]."""
        if self.spec.modality == "text":
            hidden: Tensor = self._base.embeddings(input_ids=inputs["input_ids"].to(self.compute))
            return hidden, inputs["attention_mask"].to(self.compute).bool()
        pixels = inputs["pixel_values"].to(device=self.compute, dtype=self.dtype)
        if pixels.shape[-1] != self.spec.image_size or pixels.shape[-2] != self.spec.image_size:
            raise ModelError(
                f"inputs: images of {pixels.shape[-2]} x {pixels.shape[-1]} pixels do not fit a "
                f"model loaded for {self.spec.image_size}: resize them, or set model.image_size"
            )
        if self.spec.parts.asks_to_interpolate:
            hidden = self._base.embeddings(pixels, interpolate_pos_encoding=True)
        else:
            hidden = self._base.embeddings(pixels)
        return hidden, None

    def _run(self, hidden: Tensor, mask: Tensor | None, first: int, last: int) -> Tensor:
        """Blocks first ... last - 1."""
        full = self._attention_mask(hidden, mask) if first < last else None
        for index in range(first, last):
            hidden = self._blocks[index](hidden, full)
        return hidden

    def _attention_mask(self, hidden: Tensor, mask: Tensor | None) -> Tensor | None:
        if mask is None:
            return None
        from transformers.masking_utils import create_bidirectional_mask

        full: Tensor | None = create_bidirectional_mask(
            config=self.module.config, inputs_embeds=hidden, attention_mask=mask
        )
        return full

    def _finish(self, hidden: Tensor) -> Tensor:
        """Final norm, pooling and head, as Hugging Face's classification models do."""
        family = self.spec.parts
        if family.norm is not None:
            hidden = self._base.get_submodule(family.norm)(hidden)
        if family.pool == "pooler":
            pooled = self._base.pooler(hidden)
        elif family.pool == "cls+mean":
            pooled = torch.cat([hidden[:, 0], hidden[:, self.spec.prefix :].mean(dim=1)], dim=1)
        else:
            pooled = hidden[:, 0]
        logits: Tensor = self._head(pooled)
        return logits

    def _check(self, cut: int) -> None:
        if not 0 <= cut <= self.spec.depth:
            raise ModelError(
                f"model.cut: {cut} is not within the {self.spec.depth} blocks of {self.spec.path}: "
                f"take 0 to {self.spec.depth}"
            )
