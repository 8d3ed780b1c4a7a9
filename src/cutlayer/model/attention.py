"""How much attention each token gets in a block, from the queries and keys that it computes anyway.

The scores rank tokens for selection (ST-SFLora, arXiv 2605.26120: softmax over the N patch keys
of the CLS query; taken per head with the scale 1/sqrt(d_head) and averaged over heads).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

QUERY_CHUNK = 64


@contextmanager
def capture(query: nn.Module, key: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Keep the outputs of a block's query and key layers: {"q": [B,T,D], "k": [B,T,D]}."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(lambda _m, _i, out: seen.__setitem__(name, out))

    handles = [keep("q", query), keep("k", key)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def cls_scores(q: Tensor, k: Tensor, heads: int, prefix: int, mask: Tensor | None) -> Tensor:
    """Attention of the CLS query over the tokens after the prefix: [B,N], each row sums to 1.

    q, k: [B,T,D] before the split into heads. mask [B,T] bool: False tokens get 0.
    """
    cls = _split(q[:, :1], heads)
    keys = _split(k[:, prefix:], heads)
    logits = (cls @ keys.transpose(2, 3)).squeeze(2) * cls.shape[-1] ** -0.5
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, prefix:], -torch.inf)
    scores: Tensor = logits.softmax(-1).mean(1)
    return scores


def received_scores(q: Tensor, k: Tensor, heads: int, prefix: int, mask: Tensor | None) -> Tensor:
    """Mean attention that each token after the prefix receives from all queries: [B,N].

    Softmax over all keys per head, mean over heads and valid queries, scaled to rows of sum 1.
    Queries go in chunks of 64, recomputed for the gradient, so that the B x H x T x T attention
    is never held at once. q, k: [B,T,D]; mask [B,T] bool: False tokens neither give nor get.
    """
    queries, keys = _split(q, heads), _split(k, heads)
    bias = None if mask is None else torch.where(mask, 0.0, -torch.inf).to(q)[:, None, None]
    weight = q.new_ones(q.shape[:2]) if mask is None else mask.to(q)

    def chunk(part: Tensor, weight: Tensor) -> Tensor:
        logits = part @ keys.transpose(2, 3) * part.shape[-1] ** -0.5
        attention = (logits if bias is None else logits + bias).softmax(-1)
        return torch.einsum("bhts,bt->bs", attention, weight)

    total = q.new_zeros(q.shape[:2])
    for part, valid in zip(
        torch.split(queries, QUERY_CHUNK, dim=2),
        torch.split(weight, QUERY_CHUNK, dim=1),
        strict=True,
    ):
        if torch.is_grad_enabled() and part.requires_grad | keys.requires_grad:
            total = total + checkpoint(
                chunk, part, valid, use_reentrant=False, preserve_rng_state=False
            )
        else:
            total = total + chunk(part, valid)
    received = total[:, prefix:]
    return received / received.sum(-1, keepdim=True)


def _split(x: Tensor, heads: int) -> Tensor:
    """[B,T,D] -> [B,H,T,D/H]."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)
