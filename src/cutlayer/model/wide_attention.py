"""Attention in float32 where a processor trains in bfloat16.

torch's kernels of the CPU take longer for the gradients of attention in bfloat16 than in float32:
what autocast saves on the linear layers would be lost here (benchmarks/reports/cpu_precision.md).
"""

from typing import Any

import torch
from torch import Tensor, nn

NAME = "wide_sdpa"
"""What transformers calls this attention by, beside its own `sdpa`."""


def register() -> str:
    """Make `attend` known to transformers; returns the name for `config._attn_implementation`."""
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' `sdpa`, in float32 for gradients of bfloat16 on a CPU.

    query [B,H,T,D/H], key and value [B,G,T,D/H] (G: heads that share keys): [B,T,H,D/H], in the
    dtype of value. Of queries and keys, rotary positions make float32 under autocast.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    given = query, key, value
    if value.device.type != "cpu" or value.dtype != torch.bfloat16 or not torch.is_grad_enabled():
        attended, _ = sdpa_attention_forward(module, *given, attention_mask, **settings)
        return attended, None
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast("cpu", enabled=False):
        wide = (tensor.float() for tensor in given)
        attended, _ = sdpa_attention_forward(module, *wide, attention_mask, **settings)
    return attended.to(value.dtype), None
