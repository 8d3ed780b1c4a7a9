"""Runs a program: its blocks on a few samples at a time, its ending on the whole batch."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer.errors import RefusedError, RunError
from cutlayer.light.encoded import check_shape
from cutlayer.light.graph import Arrays, ReadyGraph
from cutlayer.light.job import LightJob
from cutlayer.wire.program_ports import ProgramKey

PASS_TOKENS = 256
"""The most tokens in one pass through the blocks on a CPU; one sample may have more.

What is between the operators then stays in the CPU's cache, and takes little memory; matrices of
256 rows are multiplied at nearly full speed (benchmarks/light.py).
"""


class Program:
    """The program of `key`, as two graphs. Raises RefusedError if `key` asks for over 8 bits."""

    def __init__(
        self, key: ProgramKey, blocks: ReadyGraph, ending: ReadyGraph, job: LightJob
    ) -> None:
        if key.coding.kind == "levels" and key.coding.bits > 8:
            raise RefusedError(
                f"program: it quantises to {key.coding.bits} bits, but codes have 1 to 8: run the "
                "same cutlayer on both sides"
            )
        self.key = key
        self._blocks, self._ending, self._job = blocks, ending, job

    def run(self, given: Mapping[str, NDArray[Any]]) -> Arrays:
        """The outputs by name, of inputs by name.

        Raises RunError if a graph fails, or its outputs have a wrong shape or are not finite.
        """
        between = self._through_blocks({name: given[name] for name in self._blocks.ports.inputs})
        outputs = self._ending.run({**given, **between})
        if not np.isfinite(outputs["energy"]).all():
            raise RunError(
                "program: its activations contain NaN, infinity or values beyond float32: take "
                "another --precision"
            )
        return outputs | {"scores": between["scores"]} if self.key.scored else outputs

    def _through_blocks(self, samples: Arrays) -> Arrays:
        """Activations, and scores where there are any, of all samples."""
        job = self._job
        tokens = samples["ids"].shape[1] if job.is_text else job.prefix + job.candidates
        passes = []
        for part in self._parts(len(next(iter(samples.values()))), tokens):
            found = self._blocks.run({name: value[part] for name, value in samples.items()})
            count = part.stop - part.start
            check_shape("activations", found["activations"].shape, (count, tokens, job.width))
            if "scores" in found:
                check_shape("scores", found["scores"].shape, (count, tokens - job.prefix))
            passes.append(found)
        if len(passes) == 1:
            return passes[0]
        # No sample depends on another, except that int8 quantises by the largest of a pass.
        return {name: np.concatenate([one[name] for one in passes]) for name in passes[0]}

    def _parts(self, count: int, tokens: int) -> Iterator[slice]:
        """The slice of samples of each pass, as equal as can be; tokens: in each sample."""
        most = max(1, PASS_TOKENS // max(1, tokens))
        if self._blocks.compute.provider != "cpu":
            most = count
        passes = -(-count // most)
        ends = [count * done // passes for done in range(passes + 1)]
        return (slice(start, end) for start, end in pairwise(ends))
