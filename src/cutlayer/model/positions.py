"""Position tables of image models, interpolated once to the size of the job's images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cutlayer.model.spec import ModelSpec

# The table's names in transformers: it is a parameter in some families, an embedding in others.
PARAMETER, EMBEDDING = "position_embeddings", "position_embedding"


def fit_positions(embeddings: Any, spec: ModelSpec) -> None:
    """Interpolate the position table to `spec.image_size`, by the model's own function.

    embeddings: the module that holds the table. The result is what Hugging Face computes anew for
    every batch at that size.
    """
    if not _has_table(spec):
        return
    # The function reads the number of tokens from a tensor's shape; registers are added later.
    shape = (1, spec.position_rows, spec.width)
    table = getattr(embeddings, PARAMETER, None)
    old: Tensor = embeddings.position_embedding.weight if table is None else table
    new = embeddings.interpolate_pos_encoding(old.new_empty(shape), *(spec.image_size,) * 2)
    new = new.detach().clone()
    if table is not None:
        embeddings.position_embeddings = nn.Parameter(new, requires_grad=False)
        return
    # A table that already fits comes as [rows, D], an interpolated one as [1, rows, D].
    rows = new.reshape(spec.position_rows, spec.width)
    embeddings.position_embedding = nn.Embedding(spec.position_rows, spec.width, _weight=rows)
    embeddings.position_embedding.requires_grad_(False)
    embeddings.position_ids = torch.arange(spec.position_rows, device=new.device)[None]
    embeddings.num_patches, embeddings.num_positions = spec.patches, spec.position_rows
    embeddings.image_size = spec.image_size


def position_shape(module: nn.Module, spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The name and shape of the table after `fit_positions`; nothing for a model without one."""
    if not _has_table(spec):
        return {}
    path = f"{spec.parts.base}.{spec.parts.embeddings[0]}"
    if hasattr(module.get_submodule(path), PARAMETER):
        return {f"{path}.{PARAMETER}": (1, spec.position_rows, spec.width)}
    return {f"{path}.{EMBEDDING}.weight": (spec.position_rows, spec.width)}


def _has_table(spec: ModelSpec) -> bool:
    return spec.patch_size > 0 and spec.position_rows > 0
