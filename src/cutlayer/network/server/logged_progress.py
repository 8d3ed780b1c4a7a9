"""Passes the progress of a served run on to another progress, a log for machines and metrics."""

import time
from collections.abc import Callable, Collection
from pathlib import Path

from cutlayer.job import Job
from cutlayer.network.transport.event_log import EventLog
from cutlayer.network.transport.listener import Listener
from cutlayer.network.transport.metrics import Metrics
from cutlayer.record.rows import Row
from cutlayer.rounds.progress import Progress
from cutlayer.train.result import RoundResult


class LoggedProgress:
    """A Progress that passes every call on to another progress, a log and metrics."""

    def __init__(self, other: Progress, log: EventLog) -> None:
        self._other, self._log = other, log
        self._metrics: Metrics | None = None
        self._batches = 0
        self._began = time.monotonic()

    def measure(
        self, listener: Listener, address: str | None, places: Callable[[], Collection[str]]
    ) -> None:
        """Answer Prometheus at HOST:PORT if an address is given (places: see Metrics).

        Raises NetworkError.
        """
        if address is not None:
            self._metrics = Metrics(listener, places)
            port = self._metrics.serve(address)
            self._log.write("metrics", port=port)

    def close(self) -> None:
        """Stop answering Prometheus."""
        if self._metrics is not None:
            self._metrics.close()

    def started(self, job: Job, folder: Path, rounds_done: int) -> None:
        """See Progress."""
        if self._metrics is not None:
            self._metrics.run.rounds = job.training.rounds
            self._metrics.run.rounds_done = rounds_done
        self._log.write("run", method=job.method.name, folder=str(folder), rounds_done=rounds_done)
        self._other.started(job, folder, rounds_done)

    def say(self, line: str) -> None:
        """See Progress."""
        self._log.write("say", line=line)
        self._other.say(line)

    def step_done(self, result: RoundResult, done: int, steps: int) -> None:
        """See Progress."""
        batches = sum(map(len, result.losses.values()))
        if self._metrics is not None:
            self._metrics.batches.inc(max(0, batches - self._batches))
        self._batches = batches
        self._other.step_done(result, done, steps)

    def round_done(self, row: Row) -> None:
        """See Progress."""
        now = time.monotonic()
        if self._metrics is not None:
            self._metrics.round_seconds.observe(now - self._began)
            run = self._metrics.run
            run.rounds_done, run.loss = row.round + 1, row.loss
            if row.accuracy is not None:
                run.accuracy = row.accuracy
        self._began, self._batches = now, 0
        self._log.write(
            "round",
            round=row.round,
            loss=row.loss,
            accuracy=row.accuracy,
            devices=row.cohort,
            lost=row.lost,
            left_out=row.left_out,
            up_bytes=row.up_bytes,
            down_bytes=row.down_bytes,
            overhead_bytes=row.overhead_bytes,
            seconds=row.seconds,
        )
        self._other.round_done(row)

    def finished(self) -> None:
        """See Progress."""
        self._log.write("finished")
        self._other.finished()
