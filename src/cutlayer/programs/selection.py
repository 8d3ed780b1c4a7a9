"""The selection of tokens as nodes of a graph; `wire.tokens.select` does the same in torch."""

from dataclasses import dataclass

import numpy as np

from cutlayer.programs.graph import BOOL, FLOAT, Graph


@dataclass(frozen=True)
class Sequence:
    """Names of a graph's values for a sequence of tokens.

    hidden: [B, T, D]; mask: [B, T] bool, or None; kept: [B, K], None if all are kept; merged:
    whether the last token stands for those left out.
    """

    hidden: str
    mask: str | None
    kept: str | None = None
    merged: bool = False


def split_prefix(graph: Graph, value: str, prefix: int) -> tuple[str, str]:
    """The first `prefix` tokens of [B, T, ...], and those behind them."""
    one = graph.constant([1], np.int64)
    middle = graph.constant([prefix], np.int64)
    start, end = graph.constant([0], np.int64), graph.constant([2**62], np.int64)
    return (
        graph.add("Slice", value, start, middle, one),
        graph.add("Slice", value, middle, end, one),
    )


def add_selection(
    graph: Graph, given: Sequence, scores: str, keep: str, prefix: int, merges: bool
) -> Sequence:
    """Add nodes that keep the `keep` best scored tokens of each sample in their order; with
    `merges`, also nodes that merge the rest into one token.

    keep must be below the number of candidates.
    """
    ranked, valid = scores, None
    first, patches = split_prefix(graph, given.hidden, prefix)
    first_mask = None
    if given.mask is not None:
        first_mask, valid = split_prefix(graph, given.mask, prefix)
        ranked = graph.add("Where", valid, scores, graph.constant(-np.inf, np.float32))
    # Of equal scores the one with the lower index counts as larger, as in a stable sort.
    best = graph.add_many("TopK", 2, ranked, keep, axis=1)[1]
    kept = graph.add_many("TopK", 2, best, keep, axis=1, largest=0)[0]
    last = graph.constant([2], np.int64)
    index = graph.add("Unsqueeze", kept, last)
    parts = [first, graph.add("GatherND", patches, index, batch_dims=1)]
    masks = []
    if valid is not None and first_mask is not None:
        masks = [first_mask, graph.add("GatherElements", valid, kept, axis=1)]
    if merges:
        rest = _rest(graph, scores, kept, valid)
        parts.append(_merged(graph, patches, scores, rest))
        if masks:
            axis = graph.constant([1], np.int64)
            masks.append(graph.cast(graph.add("ReduceMax", rest, axis), BOOL))
    hidden = graph.add("Concat", *parts, axis=1)
    mask = graph.add("Concat", *masks, axis=1) if masks else None
    return Sequence(hidden, mask, kept, merges)


def _rest(graph: Graph, scores: str, kept: str, valid: str | None) -> str:
    """1 for each candidate that is left out, else 0 [B, N]."""
    zero = graph.constant(0, np.float32)
    ones = graph.add("Expand", graph.constant(1, np.float32), graph.add("Shape", scores))
    zeros = graph.add("Expand", zero, graph.add("Shape", kept))
    rest = graph.add("ScatterElements", ones, kept, zeros, axis=1)
    return rest if valid is None else graph.add("Mul", rest, graph.cast(valid, FLOAT))


def _merged(graph: Graph, patches: str, scores: str, rest: str) -> str:
    """The mean of the tokens left out, weighted by their scores [B, 1, D]."""
    axis = graph.constant([1], np.int64)
    weights = graph.add("Mul", scores, rest)
    total = graph.add("ReduceSum", weights, axis)
    flat = graph.add("LessOrEqual", total, graph.constant(0, np.float32))
    weights = graph.add("Where", flat, rest, weights)
    count = graph.add("Max", graph.add("ReduceSum", rest, axis), graph.constant(1, np.float32))
    total = graph.add("Where", flat, count, total)
    shares = graph.add("Unsqueeze", graph.add("Div", weights, total), axis)
    return graph.add("MatMul", shares, patches)
