"""The pieces of a pretrained transformer: embedding, blocks, final norm and pooling.

Hugging Face's own modules compute everything; here they are called piece by piece.
Shapes: B batch, T tokens (prefix included), N tokens after the prefix, D width, C classes.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cutlayer.errors import ModelError
from cutlayer.model import attention, block_inputs
from cutlayer.model.bank import AdapterBank
from cutlayer.model.checkpointing import run_checkpointed
from cutlayer.model.packing import Packed, packed
from cutlayer.model.spec import ModelSpec


class Transformer:
    """Calls the pieces of `module`, Hugging Face's classification model."""

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        self.spec = spec
        family = spec.parts
        self._config: Any = module.config
        self._base: Any = module.get_submodule(family.base)
        self._blocks: Any = self._base.get_submodule(family.blocks)
        self._neck: Any = module.get_submodule(family.neck) if family.neck else None
        self.checkpoints: AdapterBank | None = None
        """The bank with whose route blocks are computed again in the backward pass; None: no block
        is, since all keep their activations."""
        self.packs: AdapterBank | None = None
        """The bank by which texts of one adapter share rows in the blocks; None: none share."""

    def embed(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """hidden [B,T,D] and the padding mask [B,T]."""
        if self.spec.parts.language:
            return self._looked_up(inputs)
        hidden, mask = self._embedded(inputs)
        for path in self.spec.parts.embeddings[1:]:
            # There is a projection only if the tables have another width.
            layer = getattr(self._base, path, None)
            hidden = hidden if layer is None else layer(hidden)
        return hidden, mask

    def _looked_up(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self._looked_up_from(inputs["input_ids"], 0), inputs["attention_mask"].bool()

    def _looked_up_from(self, ids: Tensor, begin: int) -> Tensor:
        """The sum of the token embedding and, if there is one, the position embedding [B,T,D].

        ids [B,T]: their positions count from `begin` on.
        """
        family = self.spec.parts
        hidden: Tensor = self._base.get_submodule(family.embeddings[0])(ids)
        if family.position_table is not None:
            places = begin + torch.arange(hidden.shape[1], device=hidden.device)[None]
            hidden = hidden + self._base.get_submodule(family.position_table)(places)
        return hidden

    def new_past(self) -> Any:
        """An empty cache of keys and values, which `go_on` fills."""
        from transformers import DynamicCache

        return DynamicCache(config=self._config)

    def go_on(self, ids: Tensor, past: Any) -> Tensor:
        """All blocks for tokens ids [B,T] after those in `past`: [B,T,D]. Adds them to `past`."""
        hidden = self._looked_up_from(ids, past.get_seq_length())
        batch = block_inputs.Batch(self._base, self._config, self.spec, hidden, None, past)
        arguments = block_inputs.prepare(self.spec.parts.block_inputs, batch)
        for index in range(self.spec.depth):
            result = self._blocks[index](hidden, **arguments(index))
            hidden = result[0] if isinstance(result, tuple) else result
        return hidden

    def _embedded(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        embeddings = self._base.get_submodule(self.spec.parts.embeddings[0])
        if self.spec.modality == "text":
            mask = inputs["attention_mask"].bool()
            if self.spec.parts.block_inputs == "relative":
                return embeddings(input_ids=inputs["input_ids"], mask=mask), mask
            return embeddings(input_ids=inputs["input_ids"]), mask
        if self.spec.parts.asks_to_interpolate:
            return embeddings(inputs["pixel_values"], interpolate_pos_encoding=True), None
        return embeddings(inputs["pixel_values"]), None

    def run(self, hidden: Tensor, mask: Tensor | None, first: int, last: int) -> Tensor:
        """Blocks first ... last - 1."""
        if first == last:
            return hidden
        if self.packs is not None and mask is not None:
            sizes = [segment.size for segment in self.packs.route]
            rows = packed(mask, sizes)
            if rows is not None:
                return self._run_packed(self.packs, rows, hidden, first, last)
        return self._run(hidden, mask, first, last)

    def _run_packed(
        self, bank: AdapterBank, rows: Packed, hidden: Tensor, first: int, last: int
    ) -> Tensor:
        """Blocks first ... last - 1 for texts that share rows."""
        pairs = zip(bank.route, rows.rows, strict=True)
        masks = bank.now.masks
        if masks is not None:
            masks = masks.to(hidden.device).packed(rows.source // hidden.shape[1], rows.places)
        route = [replace(one, size=count) for one, count in pairs]
        with bank.use(route, sum(rows.rows), masks):
            done = self._run(rows.pack(hidden), None, first, last, rows)
        return rows.unpack(done, len(hidden))

    def _run(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        first: int,
        last: int,
        rows: Packed | None = None,
    ) -> Tensor:
        batch = block_inputs.Batch(self._base, self._config, self.spec, hidden, mask, packed=rows)
        arguments = block_inputs.prepare(self.spec.parts.block_inputs, batch)
        for index in range(first, last):
            given = hidden
            result = self._block(index, given, arguments(index))
            hidden = result[0] if isinstance(result, tuple) else result
            if index == 0:
                hidden = self._beside_first(given, hidden, mask)
        return hidden

    def _block(self, index: int, hidden: Tensor, arguments: dict[str, Any]) -> Any:
        block = self._blocks[index]
        if self.checkpoints is None or not torch.is_grad_enabled():
            return block(hidden, **arguments)
        return run_checkpointed(self.checkpoints, block, hidden, arguments)

    def _beside_first(self, given: Tensor, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """The hidden state after the layers that a family has beside its first block.

        given, hidden: the first block's input and output.
        """
        for path in self.spec.parts.after_first:
            holder, _, leaf = path.rpartition(".")
            layer = getattr(self._base.get_submodule(holder), leaf, None)
            if layer is not None:
                assert mask is not None
                hidden = layer(given, hidden, mask.long())
        return hidden

    def run_scored(
        self, hidden: Tensor, mask: Tensor | None, last: int, score: str
    ) -> tuple[Tensor, Tensor]:
        """Blocks 0 ... last - 1, and the scores [B,N] of the tokens in the last of them.

        score: see `Tokens.score`. Raises ModelError when there is no block to score with, or
        when no token can be left out.
        """
        self._check_scored(last, score)
        family = self.spec.parts
        hidden = self.run(hidden, mask, 0, last - 1)
        block = self._blocks[last - 1]
        with attention.capture(
            block.get_submodule(family.query), block.get_submodule(family.key)
        ) as seen:
            hidden = self.run(hidden, mask, last - 1, last)
        measure = attention.find_score(score)
        scores = measure(seen["q"], seen["k"], self.spec.heads, self.spec.prefix, mask)
        return hidden, scores

    def _check_scored(self, last: int, score: str) -> None:
        if last == 0:
            raise ModelError(
                "model.cut: 0 leaves the device no attention to choose tokens by: "
                "cut after block 1 or later, or keep all tokens"
            )
        if self.spec.why_all_tokens is not None:
            raise ModelError(
                f"method.tokens.keep: {self.spec.path} {self.spec.why_all_tokens}: "
                "set method.tokens.keep to null"
            )
        if score == "cls" and not self.spec.prefix:
            raise ModelError(
                f"method.tokens.score: 'cls' but {self.spec.path} has no CLS token: take received"
            )

    def pool(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Final norm and pooling, as in Hugging Face's models: [B,in], of all tokens [B,T,in]."""
        family = self.spec.parts
        if family.norm is not None:
            hidden = self._base.get_submodule(family.norm)(hidden)
        if family.pool not in ("pooler", "every"):
            hidden = self._pooled(hidden, mask)
        pooled: Tensor = hidden if self._neck is None else self._neck(hidden)
        return pooled

    def _pooled(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        pool, prefix = self.spec.parts.pool, self.spec.prefix
        if self.spec.pool_mean:
            if mask is None:
                return hidden[:, prefix:].mean(dim=1)
            total: Tensor = (hidden * mask[:, :, None]).sum(dim=1)
            return total / mask.sum(dim=1, keepdim=True)
        if pool == "cls+mean":
            return torch.cat([hidden[:, 0], hidden[:, prefix:].mean(dim=1)], dim=1)
        return hidden[:, :2] if pool == "cls+distillation" else hidden[:, 0]
