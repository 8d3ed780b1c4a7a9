"""The pieces of a pretrained transformer: embedding, blocks, and what follows them.

Hugging Face's own modules compute everything; here they are called piece by piece.
Shapes: B batch, T tokens (prefix included), N tokens after the prefix, D width, C classes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cutlayer.errors import ModelError
from cutlayer.model import attention
from cutlayer.model.families import ModelSpec
from cutlayer.model.lora import HEAD


class Transformer:
    """Calls the pieces of `module`, Hugging Face's classification model."""

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        self.spec = spec
        self._config: Any = module.config
        self._base: Any = module.get_submodule(spec.parts.base)
        self._blocks: Any = self._base.get_submodule(spec.parts.blocks)
        self._head: Any = module.get_submodule(HEAD)

    def embed(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """hidden [B,T,D] and the padding mask [B,T]."""
        if self.spec.modality == "text":
            hidden: Tensor = self._base.embeddings(input_ids=inputs["input_ids"])
            return hidden, inputs["attention_mask"].bool()
        pixels = inputs["pixel_values"]
        if self.spec.parts.asks_to_interpolate:
            return self._base.embeddings(pixels, interpolate_pos_encoding=True), None
        return self._base.embeddings(pixels), None

    def run(self, hidden: Tensor, mask: Tensor | None, first: int, last: int) -> Tensor:
        """Blocks first ... last - 1."""
        full = self._attention_mask(hidden, mask) if first < last else None
        for index in range(first, last):
            hidden = self._blocks[index](hidden, full)
        return hidden

    def run_scored(
        self, hidden: Tensor, mask: Tensor | None, last: int, score: str
    ) -> tuple[Tensor, Tensor]:
        """Blocks 0 ... last - 1, and the scores [B,N] of the tokens in the last of them.

        score: see `Tokens.score`. Raises ModelError when there is no block to score with.
        """
        if last == 0:
            raise ModelError(
                "model.cut: 0 leaves the device no attention to choose tokens by: "
                "cut after block 1 or later, or keep all tokens"
            )
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

    def finish(self, hidden: Tensor) -> Tensor:
        """Final norm, pooling and head, as Hugging Face's classification models do: [B,C]."""
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

    def _attention_mask(self, hidden: Tensor, mask: Tensor | None) -> Tensor | None:
        if mask is None:
            return None
        from transformers.masking_utils import create_bidirectional_mask

        full: Tensor | None = create_bidirectional_mask(
            config=self._config, inputs_embeds=hidden, attention_mask=mask
        )
        return full
