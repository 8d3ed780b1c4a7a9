"""What blocks take besides the hidden state: masks, and the position of each token in its sample.

Each kind (`Family.block_inputs`) has a function that prepares, once for all blocks of a part, the
keyword arguments of block `index`. They depend only on the number of tokens and the mask, so each
part makes its own and nothing more has to cross the cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cutlayer.model.family import BlockInputs
from cutlayer.model.packing import Packed
from cutlayer.model.spec import ModelSpec

Arguments = dict[str, Any]
Prepared = Callable[[int], Arguments]


@dataclass(frozen=True)
class Batch:
    """What block inputs are made of.

    base: the module that holds the blocks. config: its settings. hidden [B,T,D]; mask [B,T] bool
    (False is padding) or None. past: of language models, transformers' cache of the keys and values
    of the tokens before these; None if the text begins here. packed: where the texts of each row
    stand, used in place of the mask; None if each row is one text.
    """

    base: Any
    config: Any
    spec: ModelSpec
    hidden: Tensor
    mask: Tensor | None
    past: Any = None
    packed: Packed | None = None


def prepare(kind: BlockInputs, batch: Batch) -> Prepared:
    """The arguments of each block for a batch."""
    return _KINDS[kind](batch)


def _mask(batch: Batch) -> Prepared:
    """A mask of padding, for models whose embedding alone knows the positions."""
    if batch.mask is None:
        return lambda _index: {"attention_mask": None}
    from transformers.masking_utils import create_bidirectional_mask

    full = create_bidirectional_mask(
        config=batch.config, inputs_embeds=batch.hidden, attention_mask=batch.mask
    )
    return lambda _index: {"attention_mask": full}


def _patch_rotary(batch: Batch) -> Prepared:
    """Rotary positions of patches on their grid (DINOv3)."""
    side = batch.spec.image_size
    rotary = batch.base.rope_embeddings(batch.hidden.new_empty(1, 1, side, side))
    return lambda _index: {"position_embeddings": rotary}


def _local_global(batch: Batch) -> Prepared:
    """Rotary positions and masks that differ between local and global blocks (ModernBERT)."""
    from transformers.masking_utils import (
        create_bidirectional_mask,
        create_bidirectional_sliding_window_mask,
    )

    kinds = batch.config.layer_types
    made = {
        "config": batch.config,
        "inputs_embeds": batch.hidden,
        "attention_mask": batch.mask,
    }
    masks = {
        "full_attention": create_bidirectional_mask(**made),
        "sliding_attention": create_bidirectional_sliding_window_mask(**made),
    }
    places = torch.arange(batch.hidden.shape[1], device=batch.hidden.device)[None]
    rotary = {kind: batch.base.rotary_emb(batch.hidden, places, kind) for kind in set(kinds)}
    return lambda index: {
        "attention_mask": masks[kinds[index]],
        "position_embeddings": rotary[kinds[index]],
    }


def _causal(batch: Batch) -> Prepared:
    """Masks by which a token sees no later token, and rotary positions if the family has them.

    Padding stands behind a text, so its tokens are numbered from 0 on. Some blocks look back no
    further than a window of tokens (Mistral, Qwen).
    """
    from transformers.masking_utils import (
        create_causal_mask,
        create_sliding_window_causal_mask,
        packed_sequence_mask_function,
    )

    config, family, past = batch.config, batch.spec.parts, batch.past
    begin = 0 if past is None else past.get_seq_length()
    places = begin + torch.arange(batch.hidden.shape[1], device=batch.hidden.device)[None]
    made: dict[str, Any] = {
        "config": config,
        "inputs_embeds": batch.hidden,
        "attention_mask": batch.mask,
        "past_key_values": past,
        "position_ids": places,
    }
    if batch.packed is not None:
        places = batch.packed.places
        same_text = packed_sequence_mask_function(batch.packed.texts)
        made |= {
            "attention_mask": batch.packed.valid,
            # With position ids, transformers would make the mask a second time.
            "position_ids": None,
            "and_mask_function": same_text,
        }
    windowed = family.windows != "none" and config.sliding_window is not None
    kinds = ["sliding_attention" if windowed else "full_attention"] * batch.spec.depth
    if family.windows == "by-block":
        kinds = list(config.layer_types)
    masks = {}
    if "full_attention" in kinds:
        masks["full_attention"] = create_causal_mask(**made)
    if "sliding_attention" in kinds:
        masks["sliding_attention"] = create_sliding_window_causal_mask(**made)
    shared: Arguments = {} if past is None else {"past_key_values": past, "use_cache": True}
    if family.rotates:
        shared["position_embeddings"] = batch.base.rotary_emb(batch.hidden, position_ids=places)
    return lambda index: {"attention_mask": masks[kinds[index]], **shared}


def _relative(batch: Batch) -> Prepared:
    """Distances between tokens, and the table with a vector for each distance (DeBERTa)."""
    encoder = batch.base.encoder
    assert batch.mask is not None
    shared = {
        "attention_mask": encoder.get_attention_mask(batch.mask.long()),
        "relative_pos": encoder.get_rel_pos(batch.hidden),
        "rel_embeddings": encoder.get_rel_embedding(),
    }
    return lambda _index: shared


_KINDS: dict[BlockInputs, Callable[[Batch], Prepared]] = {
    "mask": _mask,
    "patch-rotary": _patch_rotary,
    "local-global": _local_global,
    "relative": _relative,
    "causal": _causal,
}
