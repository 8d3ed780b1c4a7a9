"""Runs a program: its blocks on a few samples at a time, its ending on the whole batch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer.errors import RefusedError, RunError
from cutlayer.light.graph import Arrays, ReadyGraph
from cutlayer.light.job import LightJob
from cutlayer.light.passes import run_blocks
from cutlayer.wire.program_ports import ProgramKey


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
                "another --precision, or leave it out of method.allocation.precisions"
            )
        return outputs | {"scores": between["scores"]} if self.key.scored else outputs

    def _through_blocks(self, samples: Arrays) -> Arrays:
        """Activations, and scores where there are any, of all samples."""
        job = self._job
        tokens = samples["ids"].shape[1] if job.is_text else job.prefix + job.candidates
        return run_blocks(self._blocks, samples, tokens, job.prefix, job.width)
