"""Selects the tokens that cross the cut: the best scored are kept, the others dropped or merged."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cutlayer.settings.method import Tokens


@dataclass(frozen=True, eq=False)
class Selected:
    """The shortened sequence.

    hidden: [B, T', D], in the order prefix, kept, merged; the graph to the input is attached.
    mask: [B, T'] bool, False where there is no token; None if all places hold tokens.
    kept: [B, K] int64, the index of each kept token, counted after the prefix.
    """

    hidden: Tensor
    mask: Tensor | None
    kept: Tensor


def select(
    hidden: Tensor, scores: Tensor, prefix: int, tokens: Tokens, mask: Tensor | None = None
) -> Selected:
    """Keep the `tokens.keep` best scored tokens of every sample, in their original order.

    hidden [B, T, D] starts with `prefix` tokens (CLS, distillation, registers) that are always
    kept; scores [B, T - prefix] rank the others, ties going to the lower index. mask [B, T] bool
    is False at padding, which is never ranked or merged: a sample with fewer than K valid tokens
    keeps them all, and its surplus places are masked off.

    With `tokens.rest == "merge"` the tokens left over become one last token,
    sum(score_n x_n) / sum(score_n); it is their plain mean if their scores sum to 0, and masked off
    if no token was left over. Gradients do not flow through the ranking, which is piecewise
    constant; all others are exact, including those through the merge weights into `scores`.

    With `tokens.keep` None, or not below T - prefix, the input is returned unchanged.
    Source: TSFLora, arXiv 2605.23988; ST-SFLora's token rule.
    """
    count = scores.shape[1]
    if hidden.shape[:2] != (scores.shape[0], prefix + count):
        raise ValueError(
            f"hidden {tuple(hidden.shape)} does not fit scores {tuple(scores.shape)} "
            f"behind {prefix} prefix tokens"
        )
    if tokens.keep is None or tokens.keep >= count:
        every = torch.arange(count, device=hidden.device).expand(len(hidden), -1)
        return Selected(hidden, mask, every)

    valid = None if mask is None else mask[:, prefix:]
    rank = scores.detach()
    if valid is not None:
        rank = rank.masked_fill(~valid, -torch.inf)
    order = rank.sort(dim=1, descending=True, stable=True).indices
    kept = order[:, : tokens.keep].sort(dim=1).values

    rest = torch.ones_like(scores, dtype=torch.bool).scatter_(1, kept, False)
    if valid is not None:
        rest &= valid
    patches = hidden[:, prefix:]
    index = kept.unsqueeze(-1).expand(-1, -1, hidden.shape[2])
    parts = [hidden[:, :prefix], patches.gather(1, index)]
    if tokens.rest == "merge":
        parts.append(_merge(patches, scores, rest))

    short_mask = None
    if mask is not None and valid is not None:
        masks = [mask[:, :prefix], valid.gather(1, kept)]
        if tokens.rest == "merge":
            masks.append(rest.any(dim=1, keepdim=True))
        short_mask = torch.cat(masks, dim=1)
    return Selected(torch.cat(parts, dim=1), short_mask, kept)


def _merge(patches: Tensor, scores: Tensor, rest: Tensor) -> Tensor:
    """One token [B, 1, D]: the mean of the `rest` tokens, weighted by their scores."""
    weights = scores.to(patches.dtype).masked_fill(~rest, 0.0)
    total = weights.sum(dim=1, keepdim=True)
    # Tokens with so little attention that it sums to 0 are weighed alike.
    flat = total <= 0
    weights = torch.where(flat, rest.to(patches.dtype), weights)
    total = torch.where(flat, rest.sum(dim=1, keepdim=True).clamp(min=1).to(total.dtype), total)
    return torch.bmm((weights / total).unsqueeze(1), patches)
