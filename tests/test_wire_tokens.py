"""Token selection: what is kept, in which order, and that gradients flow exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutlayer.settings.method import Tokens
from cutlayer.wire.tokens import select


def sequence(B: int, N: int, prefix: int, D: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(B, prefix + N, D, generator=rng, dtype=torch.float64)
    scores = 0.1 + torch.rand(B, N, generator=rng, dtype=torch.float64)
    return hidden, scores


def composed(
    hidden: Tensor, scores: Tensor, prefix: int, tokens: Tokens, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same, written sample by sample and token by token: padded to one length, and its mask."""
    samples, masks = [], []
    for b in range(len(hidden)):
        valid = [n for n in range(scores.shape[1]) if mask is None or bool(mask[b, prefix + n])]
        ranked = sorted(valid, key=lambda n: (-float(scores[b, n].detach()), n))
        kept = sorted(ranked[: tokens.keep])
        rows = [hidden[b, p] for p in range(prefix)] + [hidden[b, prefix + n] for n in kept]
        live = [mask is None or bool(mask[b, p]) for p in range(prefix)] + [True] * len(kept)
        blank = int(tokens.keep or 0) - len(kept)
        rows += [torch.zeros_like(hidden[b, 0])] * blank
        live += [False] * blank
        if tokens.rest == "merge":
            rest = [n for n in valid if n not in kept]
            weight = sum((scores[b, n] for n in rest), torch.zeros((), dtype=scores.dtype))
            merged = sum(
                (scores[b, n] * hidden[b, prefix + n] for n in rest), torch.zeros_like(rows[0])
            )
            rows.append(merged / weight if rest else merged)
            live.append(bool(rest))
        samples.append(torch.stack(rows))
        masks.append(torch.tensor(live))
    return torch.stack(samples), torch.stack(masks)


@settings(max_examples=60, deadline=None)
@given(
    B=st.integers(1, 4),
    N=st.integers(2, 9),
    prefix=st.integers(0, 3),
    keep=st.integers(1, 8),
    rest=st.sampled_from(["merge", "drop"]),
    padded=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_values_and_gradients_equal_autograd_of_the_composed_function(
    B: int, N: int, prefix: int, keep: int, rest: str, padded: bool, seed: int
) -> None:
    keep = min(keep, N - 1)
    tokens = Tokens(keep=keep, rest=rest)
    hidden, scores = sequence(B, N, prefix, 5, seed)
    mask = None
    if padded:
        lengths = torch.randint(0, N + 1, (B, 1), generator=torch.Generator().manual_seed(seed))
        mask = torch.arange(prefix + N)[None] < prefix + lengths
    results = []
    for ours in (True, False):
        h, s = hidden.clone().requires_grad_(), scores.clone().requires_grad_()
        if ours:
            selected = select(h, s, prefix, tokens, mask)
            out, live = selected.hidden, selected.mask
            live = torch.ones(out.shape[:2], dtype=torch.bool) if live is None else live
        else:
            out, live = composed(h, s, prefix, tokens, mask)
        out = out.masked_fill(~live.unsqueeze(-1), 0.0)
        rng = torch.Generator().manual_seed(seed)
        weights = torch.randn(out.shape, generator=rng, dtype=out.dtype)
        # 0 h: where all is masked, the loss still has a graph to go back through.
        ((out.sin() * weights).sum() + 0 * h.sum()).backward()
        zero = torch.zeros_like(s)
        results.append((out.detach(), live, h.grad, zero if s.grad is None else s.grad))
    (out, live, by_hidden, by_scores), (out2, live2, by_hidden2, by_scores2) = results
    assert torch.equal(live, live2)
    torch.testing.assert_close(out, out2, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(by_hidden, by_hidden2, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(by_scores, by_scores2, rtol=1e-12, atol=1e-13)


def test_the_merge_weights_carry_a_gradient_into_the_scores() -> None:
    hidden, scores = sequence(2, 6, 1, 4)
    scores.requires_grad_()
    select(hidden, scores, 1, Tokens(keep=2)).hidden[:, -1].sum().backward()
    assert scores.grad is not None
    assert (scores.grad != 0).sum() == 2 * 4


def test_prefix_comes_first_kept_tokens_stay_in_order_and_merged_is_last() -> None:
    hidden = torch.arange(6.0).view(1, 6, 1)
    scores = torch.tensor([[0.1, 0.4, 0.1, 0.9]])
    selected = select(hidden, scores, 2, Tokens(keep=2))
    assert selected.kept.tolist() == [[1, 3]]
    assert selected.hidden.flatten().tolist() == [0, 1, 3, 5, 3.0]
    assert selected.mask is None
    dropped = select(hidden, scores, 2, Tokens(keep=2, rest="drop"))
    assert dropped.hidden.flatten().tolist() == [0, 1, 3, 5]


def test_ties_go_to_the_lowest_index() -> None:
    hidden, _ = sequence(1, 40, 0, 2)
    assert select(hidden, torch.ones(1, 40), 0, Tokens(keep=5)).kept.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("keep", [None, 6, 100])
def test_keeping_all_returns_the_very_input(keep: int | None) -> None:
    hidden, scores = sequence(2, 6, 1, 4)
    mask = torch.ones(2, 7, dtype=torch.bool)
    selected = select(hidden, scores, 1, Tokens(keep=keep), mask)
    assert selected.hidden is hidden
    assert selected.mask is mask
    assert selected.kept.tolist() == [list(range(6))] * 2


def test_short_samples_keep_all_their_tokens_and_their_padding_is_masked() -> None:
    hidden, scores = sequence(2, 6, 1, 4)
    mask = torch.tensor([[True] * 3 + [False] * 4, [True] * 7])
    scores[0, 3:] = 9.0
    selected = select(hidden, scores, 1, Tokens(keep=3), mask)
    assert selected.mask is not None
    assert selected.mask.tolist() == [[True] * 3 + [False, False], [True] * 5]
    assert torch.equal(selected.hidden[0, :3], hidden[0, :3])


def test_merging_tokens_whose_scores_are_all_zero_takes_their_mean() -> None:
    hidden, scores = sequence(1, 5, 0, 3)
    scores[0, 2:] = 0.0
    hidden.requires_grad_()
    merged = select(hidden, scores, 0, Tokens(keep=2)).hidden[:, -1]
    torch.testing.assert_close(merged, hidden[:, 2:].mean(1))
    merged.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_scores_that_do_not_fit_are_refused() -> None:
    hidden, scores = sequence(2, 6, 1, 4)
    with pytest.raises(ValueError, match="does not fit"):
        select(hidden, scores, 2, Tokens(keep=2))
