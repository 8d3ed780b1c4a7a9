"""A line of a comparison: runs that differ only in their seed."""

from collections.abc import Sequence
from dataclasses import dataclass

from cutlayer.rounds.result import Result


@dataclass(frozen=True)
class Line:
    """Runs that differ only in their seed, under one label."""

    label: str
    results: Sequence[Result]

    @property
    def accuracy(self) -> dict[int, float]:
        """Accuracy after the last round, by seed."""
        return {result.job.seed: result.accuracy for result in self.results}
