"""Runs the blocks of a program on a few samples at a time."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from cutlayer.light.encoded import check_shape
from cutlayer.light.graph import Arrays, ReadyGraph

PASS_TOKENS = 256
"""The most tokens in one pass through the blocks on a CPU; one sample may have more.

What is between the operators then stays in the CPU's cache, and takes little memory; matrices of
256 rows are multiplied at nearly full speed (benchmarks/light.py).
"""


def run_blocks(blocks: ReadyGraph, samples: Arrays, tokens: int, prefix: int, width: int) -> Arrays:
    """Activations, and scores where there are any, of all samples.

    tokens: of each sample, `prefix` of them first, of `width` values. Raises RunError if the graph
    fails or its outputs have another shape.
    """
    passes = []
    for part in _parts(blocks, len(next(iter(samples.values()))), tokens):
        found = blocks.run({name: value[part] for name, value in samples.items()})
        count = part.stop - part.start
        check_shape("activations", found["activations"].shape, (count, tokens, width))
        if "scores" in found:
            check_shape("scores", found["scores"].shape, (count, tokens - prefix))
        passes.append(found)
    if len(passes) == 1:
        return passes[0]
    # No sample depends on another, except that int8 quantises by the largest of a pass.
    return {name: np.concatenate([one[name] for one in passes]) for name in passes[0]}


def _parts(blocks: ReadyGraph, count: int, tokens: int) -> Iterator[slice]:
    """The slice of samples of each pass, as equal as can be; tokens: in each sample."""
    most = max(1, PASS_TOKENS // max(1, tokens))
    if blocks.compute.provider != "cpu":
        most = count
    passes = -(-count // most)
    ends = [count * done // passes for done in range(passes + 1)]
    return (slice(start, end) for start, end in pairwise(ends))
