"""A pretrained model cut between two blocks: the device's part, the server's, or both.

What a family computes is in its body (transformer.py, resnet.py); what of it trains is in the
adapters of the route (lora.py, full.py). The backbone itself is one and never changes.
Shapes: B batch, T tokens (prefix included), N tokens after the prefix, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cutlayer.errors import JobError, ModelError
from cutlayer.model.bank import AdapterBank, Segment
from cutlayer.model.compiled import CompiledPasses, check_compiler
from cutlayer.model.lora import Adapter, Batch, Piece, Tensors
from cutlayer.model.spec import ModelSpec, Part, Train
from cutlayer.model.transformer import Transformer
from cutlayer.settings.compute import Precision

__all__ = ["Activations", "Adapter", "CutModel", "Part", "Segment"]

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


class Body(Protocol):
    """The pieces of one family's model.

    checkpoints: the bank whose route blocks run with again on the way back; None: they keep all.
    """

    checkpoints: AdapterBank | None

    def embed(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """hidden [B,T,D] and the padding mask [B,T] or None."""

    def run(self, hidden: Tensor, mask: Tensor | None, first: int, last: int) -> Tensor:
        """Blocks first ... last - 1."""

    def run_scored(
        self, hidden: Tensor, mask: Tensor | None, last: int, score: str
    ) -> tuple[Tensor, Tensor]:
        """Blocks 0 ... last - 1, and the scores [B,N] of tokens; ModelError if it has none."""

    def pool(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """What follows the blocks, up to what the head reads.

        [B,in], of K outputs [B,K,in], of a language model [B,T,in].
        """


class Head(Protocol):
    """What gives logits."""

    def __call__(self, x: Tensor) -> Tensor:
        """Of what `Body.pool` gives: logits [B,C], of a language model [B,T,V]."""

    def read(self, x: Tensor) -> Tensor:
        """What the output layers read, of the shape of x."""


class Weights(Protocol):
    """What of a model trains, and how the segments of a batch bring it."""

    train: Train
    bank: AdapterBank

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of an adapter of the whole model, by key."""

    def fresh(self, seed: int) -> Adapter:
        """A new adapter, as training starts from it."""

    def trained(self, name: str) -> bool:
        """Whether the adapter's tensor `name` is trained by its gradient."""

    def run(self, route: Route, batch: Batch, piece: Piece) -> Tensors:
        """`piece` of the batch, every segment with its own adapter."""


class CutModel:
    """One backbone (or a part of it) that computes for any number of adapters.

    module: Hugging Face's classification model. body calls its pieces, weights knows what of it
    trains; dtype: of the backbone and of new adapters. drawn: modules before the head that the
    checkpoint lacks, so that they were drawn anew.
    """

    def __init__(
        self,
        module: nn.Module,
        body: Body,
        head: Head,
        weights: Weights,
        spec: ModelSpec,
        part: Part,
        dtype: torch.dtype,
        drawn: tuple[str, ...] = (),
    ) -> None:
        self.module = module.eval()
        self.spec = spec
        self.part = part
        self.dtype = dtype
        self.drawn = drawn
        self._body = body
        self._head = head
        self._weights = weights
        # A part may hold no tensor that would tell where it is.
        self._probe = torch.empty(0)
        self._autocast = False
        self._compiled: CompiledPasses | None = None

    @property
    def train(self) -> Train:
        """LoRA adapters and the head, or every weight."""
        return self._weights.train

    @property
    def bank(self) -> AdapterBank:
        """The route of the batch in computation."""
        return self._weights.bank

    @property
    def compute(self) -> torch.device:
        """The torch device that holds the backbone (`device` means a party of the fleet)."""
        return self._probe.device

    def to(self, device: torch.device | str) -> CutModel:
        """Move the backbone to `device`; adapters and activations are the caller's to move."""
        self.module.to(device)
        self._probe = self._probe.to(device)
        return self

    def use(
        self, precision: Precision, checkpointing: bool = False, packing: bool = False
    ) -> CutModel:
        """Multiply matrices in bfloat16, or in the numbers that torch is set to; see Training.

        checkpointing: blocks of a transformer keep their input alone, and run again going back.
        packing: texts of one adapter share rows in the blocks (language models).
        """
        self._autocast = precision == "bfloat16"
        self._body.checkpoints = self.bank if checkpointing else None
        if isinstance(self._body, Transformer):
            self._body.packs = self.bank if packing else None
        return self

    def compile(self, wanted: bool) -> CutModel:
        """Compile what trains after the cut, or in all of the model; see Training.

        Raises JobError where that cannot be: torch has no compiler, or not LoRA adapters alone
        train.
        """
        self._compiled = None
        if wanted:
            check_compiler(self.compute)
            if self.train != "lora" or self.spec.lora.dropout or self.spec.parts.one_adapter_a_pass:
                raise JobError(
                    "training.compile: true but only LoRA without dropout, of a family that takes "
                    "many adapters in one pass, is compiled: leave it out"
                )
            self._compiled = CompiledPasses(self._weights.run, self.compute)
        return self

    def kept(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of a pass, so that they outlive the next one."""
        return list(tensors) if self._compiled is None else self._compiled.kept(tensors)

    def _run(self, route: Route, batch: Batch, piece: Piece, name: object = None) -> Tensors:
        """`piece` of the batch, in the precision asked for; results are in the model's own.

        name: of a piece that may be compiled, which tells it from others.
        """
        with torch.autocast(self.compute.type, torch.bfloat16, enabled=self._autocast):
            if self._compiled is None or name is None or not torch.is_grad_enabled():
                results = self._weights.run(route, batch, piece)
            else:
                results = self._compiled.pass_of(name, route, batch, piece)
        if not self._autocast:
            return results
        return tuple(
            t.to(self.dtype) if t is not None and t.is_floating_point() else t for t in results
        )

    def new_adapter(self, seed: int) -> Adapter:
        """An adapter to start from, on the model's torch device.

        LoRA: A kaiming-uniform (a = sqrt 5), B zero as in PEFT; every tensor is drawn from (seed,
        its name), so a part's tensors are those of the whole. Full training: a copy of the loaded
        tensors of this part. The head is new: normal(0, 0.02), from (seed, its name).
        """
        adapter = self._weights.fresh(seed)
        return {key: t.to(device=self.compute, dtype=self.dtype) for key, t in adapter.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of an adapter of the whole model, by key."""
        return self._weights.shapes()

    def trained(self, name: str) -> bool:
        """Whether an optimiser moves the adapter's tensor `name`.

        Not so the running statistics of batch normalisation, which move in the forward pass.
        """
        return self._weights.trained(name)

    def take_drawn(self, tensors: Adapter) -> None:
        """Put saved values in place of tensors that were drawn because the checkpoint lacks them.

        Raises ModelError for a tensor of another shape.
        """
        held = dict(self.module.named_parameters())
        for name, value in tensors.items():
            if value.shape != held[name].shape:
                raise ModelError(
                    f"adapter: {name} has shape {list(value.shape)}, not "
                    f"{list(held[name].shape)}: it must come from the same model"
                )
            held[name].copy_(value)

    def names_before(self, cut: int) -> tuple[str, ...]:
        """The adapter's keys before block `cut`."""
        return tuple(key for key in self.shapes() if self.spec.position(key) < cut)

    @property
    def tail_names(self) -> tuple[str, ...]:
        """The adapter's keys in a tail that the device holds, the head's among them."""
        if self.spec.tail is None:
            return ()
        return tuple(key for key in self.shapes() if self.spec.position(key) >= self.spec.end)

    def device_names(self, cut: int) -> tuple[str, ...]:
        """The adapter's keys that the device holds when cut after block `cut`, its tail's too."""
        return (*self.names_before(cut), *self.tail_names)

    def server_names(self, cut: int) -> tuple[str, ...]:
        """The adapter's keys that the server holds; without a tail the head's are among them."""
        device = set(self.device_names(cut))
        return tuple(key for key in self.shapes() if key not in device)

    def device_forward(
        self, inputs: dict[str, Tensor], cut: int, route: Route, score: str | None = None
    ) -> Activations:
        """Embedding and the first `cut` blocks.

        inputs: pixel_values [B,C,H,W], or input_ids and attention_mask [B,T].
        score: "cls" ranks tokens by the CLS query's attention in the last of those blocks,
        "received" by the mean attention of all queries, `package.module:FUNCTION` by one's own.
        Raises ModelError for a score at cut 0, or of a model without attention.
        """
        self._check(cut)

        def piece(batch: Batch) -> Tensors:
            hidden, mask = self._body.embed(_present(batch))
            if score is None:
                return self._body.run(hidden, mask, 0, cut), mask, None
            hidden, scores = self._body.run_scored(hidden, mask, cut, score)
            return hidden, mask, scores

        hidden, mask, scores = self._run(route, self._ready(inputs), piece)
        assert hidden is not None
        return Activations(hidden, mask, scores)

    def frozen_forward(
        self, inputs: dict[str, Tensor], cut: int, score: str | None = None
    ) -> Activations:
        """As `device_forward`, without adapters and of whatever number of samples: to be exported.

        Nothing of it depends on the sizes of `inputs`, nor is it checked.
        """
        hidden, mask = self._body.embed(inputs)
        if score is None:
            return Activations(self._body.run(hidden, mask, 0, cut), mask, None)
        hidden, scores = self._body.run_scored(hidden, mask, cut, score)
        return Activations(hidden, mask, scores)

    def server_forward(self, hidden: Tensor, mask: Tensor | None, cut: int, route: Route) -> Tensor:
        """Blocks from `cut` on, final norm and head: hidden [B,T',D] -> logits [B,C].

        A language model gives logits [B,T',V] over its vocabulary, for what follows each token.

        T' may be smaller than T: tokens after the prefix may have been dropped or merged (not of
        a ResNet). mask [B,T'] bool: False is padding.
        """
        self._check(cut)

        def piece(batch: Batch) -> tuple[Tensor]:
            received = batch["hidden"]
            assert received is not None
            blocks = self._body.run(received, batch["mask"], cut, self.spec.depth)
            return (self._head(self._body.pool(blocks, batch["mask"])),)

        (logits,) = self._run(route, {"hidden": hidden, "mask": mask}, piece, ("server", cut))
        assert logits is not None
        return logits

    def middle_forward(self, hidden: Tensor, mask: Tensor | None, cut: int, route: Route) -> Tensor:
        """Blocks from `cut` up to the tail: hidden [B,T',D] -> features [B,T',D], D at its end."""
        self._check(cut)

        def piece(batch: Batch) -> tuple[Tensor]:
            received = batch["hidden"]
            assert received is not None
            return (self._body.run(received, batch["mask"], cut, self.spec.end),)

        (features,) = self._run(route, {"hidden": hidden, "mask": mask}, piece)
        assert features is not None
        return features

    def tail_forward(self, features: Tensor, mask: Tensor | None, route: Route) -> Tensor:
        """The tail's blocks, final norm and head: features [B,T',D] -> logits, as the server's."""
        return self.server_forward(features, mask, self.spec.end, route)

    def forward(self, inputs: dict[str, Tensor], route: Route) -> Tensor:
        """The unsplit model: logits [B,C], of a language model [B,T,V]."""

        def piece(batch: Batch) -> tuple[Tensor]:
            hidden, mask = self._body.embed(_present(batch))
            blocks = self._body.run(hidden, mask, 0, self.spec.depth)
            return (self._head(self._body.pool(blocks, mask)),)

        (logits,) = self._run(route, self._ready(inputs), piece, "whole")
        assert logits is not None
        return logits

    __call__ = forward

    def new_past(self) -> Any:
        """An empty cache of keys and values for `go_on`; of language models."""
        assert isinstance(self._body, Transformer)
        return self._body.new_past()

    def go_on(self, ids: Tensor, past: Any, route: Route) -> Tensor:
        """Logits [B,V] after tokens ids [B,T], which follow those in `past` and are added to it."""
        body = self._body
        assert isinstance(body, Transformer)

        def piece(batch: Batch) -> tuple[Tensor]:
            given = batch["input_ids"]
            assert given is not None
            hidden = body.go_on(given, past)[:, -1:]
            return (self._head(body.pool(hidden, None))[:, 0],)

        (logits,) = self._run(route, {"input_ids": ids.to(self.compute)}, piece)
        assert logits is not None
        return logits

    def features(self, inputs: dict[str, Tensor], route: Route) -> Tensor:
        """What the head's output layers read: [B,in], of K outputs one after another [B,K in]."""

        def piece(batch: Batch) -> tuple[Tensor]:
            hidden, mask = self._body.embed(_present(batch))
            blocks = self._body.run(hidden, mask, 0, self.spec.depth)
            return (self._head.read(self._body.pool(blocks, mask)).flatten(1),)

        (read,) = self._run(route, self._ready(inputs), piece)
        assert read is not None
        return read

    def _ready(self, inputs: dict[str, Tensor]) -> Batch:
        """The inputs on the model's torch device and, pixels, in its dtype and size."""
        if self.spec.modality == "text":
            return {key: inputs[key].to(self.compute) for key in ("input_ids", "attention_mask")}
        pixels = inputs["pixel_values"].to(device=self.compute, dtype=self.dtype)
        if pixels.shape[-1] != self.spec.image_size or pixels.shape[-2] != self.spec.image_size:
            raise ModelError(
                f"inputs: images of {pixels.shape[-2]} x {pixels.shape[-1]} pixels do not fit a "
                f"model loaded for {self.spec.image_size}: resize them, or set model.image_size"
            )
        return {"pixel_values": pixels}

    def _check(self, cut: int) -> None:
        if not 0 <= cut <= self.spec.depth:
            raise ModelError(
                f"model.cut: {cut} is not within the {self.spec.depth} blocks of {self.spec.path}: "
                f"take 0 to {self.spec.depth}"
            )


def _present(batch: Batch) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in batch.items() if tensor is not None}
