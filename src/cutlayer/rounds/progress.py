"""What a run says while it goes: a live bar in a terminal, plain lines elsewhere."""

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID

from cutlayer.drawing.notebook import in_notebook
from cutlayer.drawing.progress_bar import make_bar
from cutlayer.harmless import harmless
from cutlayer.job import Job
from cutlayer.record.rows import Row
from cutlayer.train.result import RoundResult


class Progress(Protocol):
    """What a run tells whoever watches it."""

    def started(self, job: Job, folder: Path, rounds_done: int) -> None:
        """The run begins, or goes on after `rounds_done` rounds.

        job: what is run. folder: its run folder. rounds_done: 0 at first.
        """

    def say(self, line: str) -> None:
        """Tell what goes on besides training.

        line: a sentence for people.
        """

    def step_done(self, result: RoundResult, done: int, steps: int) -> None:
        """`done` of the `steps` of a round are done.

        result: of the round as far as it is. done, steps: counts.
        """

    def round_done(self, row: Row) -> None:
        """A round is finished, measured and committed.

        row: what was measured.
        """

    def finished(self) -> None:
        """The run is complete."""


class Silent:
    """Says nothing."""

    def started(self, job: Job, folder: Path, rounds_done: int) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    def step_done(self, result: RoundResult, done: int, steps: int) -> None:
        """Nothing."""

    def round_done(self, row: Row) -> None:
        """Nothing."""

    def finished(self) -> None:
        """Nothing."""


def watched(progress: Progress | None) -> Progress:
    """Where a function of the Python API reports its progress.

    Where none is given: lines below the cell in a notebook, and nothing elsewhere.
    """
    if progress is not None:
        return progress
    return OnConsole(Console()) if in_notebook() else Silent()


class OnConsole:
    """A line a round, and in a terminal a live bar with loss, bytes and the time left.

    verb: of the command that goes on with a run that was stopped.
    """

    def __init__(self, console: Console, verb: str = "simulate") -> None:
        self._console, self._verb = console, verb
        self._bar = make_bar(console, "now")
        self._task: TaskID | None = None
        self._folder: Path | None = None
        self._rounds = 0
        self._done = 0
        self._bytes = [0, 0]

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def started(self, job: Job, folder: Path, rounds_done: int) -> None:
        """Announce the run and its folder."""
        self._folder, self._done = folder, rounds_done
        self._rounds, self._bytes = job.training.rounds, [0, 0]
        devices = f"{job.devices.cohort} of {job.devices.count} devices a round"
        resumed = f", going on after round {rounds_done}" if rounds_done else ""
        where = escape(harmless(str(folder)))
        self._say(f"[bold]{escape(job.method.name)}[/]: {devices}{resumed}; run folder {where}")
        self._task = self._bar.add_task(
            "starting", total=self._rounds, completed=rounds_done, now=""
        )

    def say(self, line: str) -> None:
        """Print the line."""
        self._say(escape(harmless(line)))

    def step_done(self, result: RoundResult, done: int, steps: int) -> None:
        """Move the bar."""
        if self._task is None or self._bar.disable:
            return
        up = self._bytes[0] + sum(t.up for t in result.traffic.values())
        down = self._bytes[1] + sum(t.down for t in result.traffic.values())
        self._bar.update(
            self._task,
            completed=result.round + done / steps,
            description=f"round {result.round + 1}/{self._rounds}",
            now=f"loss {result.loss:.3f}  up {up / 1e6:.1f} MB  down {down / 1e6:.1f} MB",
        )

    def round_done(self, row: Row) -> None:
        """Print the round's line."""
        self._done = row.round + 1
        self._bytes[0] += row.up_bytes
        self._bytes[1] += row.down_bytes
        accuracy = f"{100 * row.accuracy:5.1f} %" if row.accuracy is not None else "      -"
        tested = "" if row.test_samples is None else f" of {row.test_samples:,}"
        if row.perplexity is not None:
            tested = f" of tokens, perplexity {row.perplexity:.2f}"
        self._say(
            f"  round {row.round + 1:>{len(str(self._rounds))}}/{self._rounds}"
            f"  loss {row.loss:.3f}  accuracy {accuracy}{tested}"
            f"  up {row.up_bytes / 1e6:7.2f} MB  down {row.down_bytes / 1e6:7.2f} MB"
            f"  {sum(row.seconds.values()):6.1f} s"
        )
        dropped = {"left out": row.left_out, "too late": row.late, "lost": row.lost}
        missing = [f"{why}: {', '.join(map(str, who))}" for why, who in dropped.items() if who]
        if row.virtual_s is not None:
            missing[:0] = [f"in its world: {row.virtual_s:.2f} s, {sum(row.joules.values()):.2f} J"]
        if row.in_vain:
            missing.append("so the round changed nothing")
        if missing:
            self._say(f"    {', '.join(missing)}")
        if row.generated is not None:
            self._say(
                f"    generated: {sum(row.generated)} images, weighing "
                f"{row.generated_weight or 0.0:.2f} in the average"
            )

    def finished(self) -> None:
        """Take the bar away."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def interrupted(self, options: str = "") -> str:
        """What to tell someone who stopped the run. options: what going on needs besides."""
        if self._folder is None:
            return "stopped before anything was written"
        return (
            f"stopped after {self._done} of {self._rounds} rounds; go on with: "
            f"cutlayer {self._verb} --resume {self._folder}{options}"
        )

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
