"""How much attention each token gets in a block, from the queries and keys that it computes anyway.

The scores rank tokens for selection (ST-SFLora, arXiv 2605.26120: softmax over the N patch keys
of the CLS query; taken per head with the scale 1/sqrt(d_head) and averaged over heads).

A score of one's own is a function that a job names by `package.module:FUNCTION`:
(q [B,T,D], k [B,T,D], heads, prefix, mask [B,T] bool or None) -> scores [B,N]. Tokens with larger
scores are kept. Scores must be 0 or more, since they also weigh the tokens that are merged.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cutlayer.errors import ModelError
from cutlayer.own_code import load_own_function

QUERY_CHUNK = 64

Measure = Callable[[Tensor, Tensor, int, int, Tensor | None], Tensor]


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


def find_score(score: str) -> Measure:
    """The function that scores tokens: cls, received, or the one at `package.module:FUNCTION`.

    Raises JobError when there is no such function.
    """
    if ":" not in score:
        return cls_scores if score == "cls" else received_scores
    return partial(_checked, score, load_own_function("method.tokens.score", score))


def _checked(
    name: str, own: Measure, q: Tensor, k: Tensor, heads: int, prefix: int, mask: Tensor | None
) -> Tensor:
    """A user's scores, checked, set to 0 at padding and scaled so that each row sums to 1."""
    scores = own(q, k, heads, prefix, mask)
    due = (q.shape[0], q.shape[1] - prefix)
    if not isinstance(scores, Tensor) or scores.shape != due:
        found = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ModelError(
            f"method.tokens.score: {name} gave {found}: return a tensor of shape [B,N], here "
            f"{list(due)}"
        )
    if mask is not None:
        scores = scores.masked_fill(~mask[:, prefix:], 0.0)
    if not (torch.isfinite(scores) & (scores >= 0)).all():
        raise ModelError(
            f"method.tokens.score: {name} gave a score below 0, infinite or NaN: return finite "
            "numbers of 0 or more, as softmax or square does"
        )
    total = scores.sum(-1, keepdim=True)
    return scores / total.where(total > 0, 1.0)


def cls_scores(q: Tensor, k: Tensor, heads: int, prefix: int, mask: Tensor | None) -> Tensor:
    """Attention of the CLS query over the tokens after the prefix: [B,N], each row sums to 1.

    heads: how many the block has. prefix: how many tokens (CLS, registers) are not ranked.
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

    heads: how many the block has. prefix: how many tokens (CLS, registers) are not ranked.
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
