"""A pretrained model cut between two blocks: the device's part, the server's, or both.

A family's body (transformer.py, resnet.py) computes; the adapters of the route (lora.py, full.py)
hold what trains. There is one backbone, and it never changes.
Shapes: B batch, T tokens (prefix included), N tokens after the prefix, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
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
    attention that each token after the prefix gets, with the autograd graph attached.
    """

    hidden: Tensor
    mask: Tensor | None
    scores: Tensor | None


class Body(Protocol):
    """The pieces of one family's model.

    checkpoints: the bank with whose route blocks are computed again in the backward pass; None if
    blocks keep all their activations.
    """

    checkpoints: AdapterBank | None

    def embed(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """hidden [B,T,D] and the padding mask [B,T] or None."""

    def run(self, hidden: Tensor, mask: Tensor | None, first: int, last: int) -> Tensor:
        """Blocks first ... last - 1."""

    def run_scored(
        self, hidden: Tensor, mask: Tensor | None, last: int, score: str
    ) -> tuple[Tensor, Tensor]:
        """Blocks 0 ... last - 1, and the scores [B,N] of tokens; ModelError without attention."""

    def pool(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """The layers between the blocks and the head; returns the head's input.

        [B,in]; for a head with K outputs [B,K,in]; for a language model [B,T,in].
        """


class Head(Protocol):
    """The layers that give logits."""

    def __call__(self, x: Tensor) -> Tensor:
        """The logits [B,C] (of a language model [B,T,V]) for what `Body.pool` gives."""

    def read(self, x: Tensor) -> Tensor:
        """The input of the output layers, in the shape of x."""


class Weights(Protocol):
    """The trained numbers of a model, which come with the segments of a batch."""

    train: Train
    bank: AdapterBank

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of an adapter of the whole model, by key."""

    def fresh(self, seed: int) -> Adapter:
        """A new adapter for training to start from."""

    def trained(self, name: str) -> bool:
        """Whether the adapter's tensor `name` is trained by a gradient."""

    def run(self, route: Route, batch: Batch, piece: Piece) -> Tensors:
        """`piece` of the batch, every segment with its own adapter."""


class CutModel:
    """One backbone (or a part of it) that computes for any number of adapters.

    module: Hugging Face's classification model. body calls its pieces; weights knows which numbers
    train; dtype: of the backbone and of new adapters. drawn: modules before the head that the
    checkpoint lacks, so that they have random weights.
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
        # The torch device of the model, also for a part without any tensor.
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

        checkpointing: blocks of a transformer keep only their input, and are computed again in the
        backward pass. packing: texts of one adapter share rows in the blocks (language models).
        """
        self._autocast = precision == "bfloat16"
        self._body.checkpoints = self.bank if checkpointing else None
        if isinstance(self._body, Transformer):
            self._body.packs = self.bank if packing else None
        return self

    @contextmanager
    def unrounded(self) -> Iterator[None]:
        """Multiply matrices in the model's dtype within the `with` block, whatever `use` asked for.

        Convolutions may still round to tf32 on a GPU.
        """
        autocast, tf32 = self._autocast, torch.backends.cuda.matmul.allow_tf32
        self._autocast, torch.backends.cuda.matmul.allow_tf32 = False, False
        try:
            yield
        finally:
            self._autocast, torch.backends.cuda.matmul.allow_tf32 = autocast, tf32

    def compile(self, wanted: bool) -> CutModel:
        """Compile the passes that train after the cut, or in the whole model; see Training.

        Raises JobError if torch has no compiler, or if more than plain LoRA adapters trains.
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
        """Gradients of a pass, copied where the next pass would overwrite them."""
        return list(tensors) if self._compiled is None else self._compiled.kept(tensors)

    def _run(self, route: Route, batch: Batch, piece: Piece, name: object = None) -> Tensors:
        """`piece` of the batch, in the precision asked for; results are in the model's dtype.

        name: names a piece that may be compiled; None for others.
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

        LoRA: A kaiming-uniform (a = sqrt 5), B zero as in PEFT. Every tensor is drawn from (seed,
        its name), so a part of the model gets the same tensors as the whole. Full training: a copy
        of the loaded tensors of this part. The head is new: normal(0, 0.02), from (seed, its name).
        """
        adapter = self._weights.fresh(seed)
        return {key: t.to(device=self.compute, dtype=self.dtype) for key, t in adapter.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of an adapter of the whole model, by key."""
        return self._weights.shapes()

    def trained(self, name: str) -> bool:
        """Whether an optimiser moves the adapter's tensor `name`.

        False for the running statistics of batch normalisation, which move in the forward pass.
        """
        return self._weights.trained(name)

    def take_drawn(self, tensors: Adapter) -> None:
        """Replace tensors that were drawn, since the checkpoint lacks them, by saved values.

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
        return tuple(key for key, block in self._block_of.items() if block < cut)

    @property
    def tail_names(self) -> tuple[str, ...]:
        """The adapter's keys in the tail that the device holds, with those of the head."""
        if self.spec.tail is None:
            return ()
        return tuple(key for key, block in self._block_of.items() if block >= self.spec.end)

    def device_names(self, cut: int) -> tuple[str, ...]:
        """The adapter's keys that the device holds: before block `cut`, and in its tail."""
        return (*self.names_before(cut), *self.tail_names)

    def server_names(self, cut: int) -> tuple[str, ...]:
        """The adapter's keys that the server holds, with the head's unless there is a tail."""
        device = set(self.device_names(cut))
        return tuple(key for key in self._block_of if key not in device)

    @cached_property
    def _block_of(self) -> dict[str, int]:
        """The block that each of the adapter's keys is in; every step asks for them."""
        return {key: self.spec.position(key) for key in self.shapes()}

    def device_forward(
        self, inputs: dict[str, Tensor], cut: int, route: Route, score: str | None = None
    ) -> Activations:
        """Embedding and the first `cut` blocks.

        inputs: pixel_values [B,C,H,W], or input_ids and attention_mask [B,T].
        score: "cls" ranks tokens by the CLS query's attention in the last of those blocks,
        "received" by the mean attention of all queries, `package.module:FUNCTION` by that function.
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
        """As `device_forward`, without adapters: for export as a graph.

        Nothing in it depends on the sizes of `inputs`, and the inputs are not checked.
        """
        hidden, mask = self._body.embed(inputs)
        if score is None:
            return Activations(self._body.run(hidden, mask, 0, cut), mask, None)
        hidden, scores = self._body.run_scored(hidden, mask, cut, score)
        return Activations(hidden, mask, scores)

    def server_forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        cut: int,
        route: Route,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Blocks from `cut` on, final norm and head: hidden [B,T',D] -> logits [B,C].

        A language model gives logits [B,T',V] over its vocabulary, for the token after each token;
        with wanted [B,T'] bool, on the CPU, only for the n tokens where it is True, [n,V] in order.

        T' may be smaller than T: tokens after the prefix may have been dropped or merged (not of
        a ResNet). mask [B,T'] bool: False is padding.
        """
        return self._to_logits(hidden, mask, cut, route, ("server", cut), wanted)

    def answer(self, hidden: Tensor, mask: Tensor | None, cut: int, route: Route) -> Tensor:
        """What the server gives for hidden states: logits, or with a tail the features for it.

        As `server_forward` or `middle_forward`, and never compiled.
        """
        if self.spec.tail is not None:
            return self.middle_forward(hidden, mask, cut, route)
        return self._to_logits(hidden, mask, cut, route, None)

    def _to_logits(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        cut: int,
        route: Route,
        name: object,
        wanted: Tensor | None = None,
    ) -> Tensor:
        self._check(cut)

        def piece(batch: Batch) -> tuple[Tensor]:
            received = batch["hidden"]
            assert received is not None
            blocks = self._body.run(received, batch["mask"], cut, self.spec.depth)
            return (self._logits_of(blocks, batch),)

        return self._wanted_logits(route, {"hidden": hidden, "mask": mask}, piece, name, wanted)

    def _logits_of(self, blocks: Tensor, batch: Batch) -> Tensor:
        """What norm, head and the layers between make of the last block's hidden states [B,T,D]."""
        read, wanted = self._body.pool(blocks, batch.get("mask")), batch.get("wanted")
        return self._head(read if wanted is None else _rows_of(read, wanted))

    def _wanted_logits(
        self, route: Route, batch: Batch, piece: Piece, name: object, wanted: Tensor | None
    ) -> Tensor:
        """The logits of a piece, of wanted tokens only where these are given.

        A compiled pass computes them all: it would have to be compiled for each number of tokens.
        """
        compiled = self._compiled is not None and name is not None
        if wanted is not None and not compiled:
            batch = {**batch, "wanted": wanted}
        (logits,) = self._run(route, batch, piece, name)
        assert logits is not None
        return _rows_of(logits, wanted) if wanted is not None and compiled else logits

    def middle_forward(self, hidden: Tensor, mask: Tensor | None, cut: int, route: Route) -> Tensor:
        """Blocks from `cut` up to the tail: hidden [B,T',D] -> features [B,T',D'].

        D' is the width after the last of these blocks.
        """
        self._check(cut)

        def piece(batch: Batch) -> tuple[Tensor]:
            received = batch["hidden"]
            assert received is not None
            return (self._body.run(received, batch["mask"], cut, self.spec.end),)

        (features,) = self._run(route, {"hidden": hidden, "mask": mask}, piece)
        assert features is not None
        return features

    def tail_forward(
        self, features: Tensor, mask: Tensor | None, route: Route, wanted: Tensor | None = None
    ) -> Tensor:
        """The tail's blocks, final norm and head: features [B,T',D] -> logits, as the server's."""
        return self.server_forward(features, mask, self.spec.end, route, wanted)

    def forward(
        self, inputs: dict[str, Tensor], route: Route, wanted: Tensor | None = None
    ) -> Tensor:
        """The unsplit model: logits [B,C], of a language model as the server's."""

        def piece(batch: Batch) -> tuple[Tensor]:
            hidden, mask = self._body.embed(_present(batch))
            blocks = self._body.run(hidden, mask, 0, self.spec.depth)
            return (self._logits_of(blocks, batch | {"mask": mask}),)

        return self._wanted_logits(route, self._ready(inputs), piece, "whole", wanted)

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
        """The input of the head's output layers: [B,in]; for K outputs, joined, [B,K in]."""

        def piece(batch: Batch) -> tuple[Tensor]:
            hidden, mask = self._body.embed(_present(batch))
            blocks = self._body.run(hidden, mask, 0, self.spec.depth)
            return (self._head.read(self._body.pool(blocks, mask)).flatten(1),)

        (read,) = self._run(route, self._ready(inputs), piece)
        assert read is not None
        return read

    def _ready(self, inputs: dict[str, Tensor]) -> Batch:
        """The inputs on the model's torch device; pixels in its dtype, and checked for size."""
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


def _rows_of(x: Tensor, wanted: Tensor) -> Tensor:
    """x [B,T,D] -> [n,D]: the tokens where wanted [B,T] is True.

    Their places are found on the CPU, where `wanted` lies, so that a GPU need not be waited for.
    """
    places = wanted.flatten().nonzero()[:, 0]
    return x.flatten(0, 1).index_select(0, places.to(x.device, non_blocking=True))


def _present(batch: Batch) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in batch.items() if tensor is not None}
