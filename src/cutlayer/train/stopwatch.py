"""Measures the wall-clock seconds of each stage of a round."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Wall-clock seconds by stage; the outer stage does not count the seconds of a stage inside."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time inside to a stage's seconds."""
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[stage] += elapsed - self._inner.pop()
            self._inner[-1] += elapsed
