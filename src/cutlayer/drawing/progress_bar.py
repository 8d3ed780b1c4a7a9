"""The live progress bar of runs, calibrations and the training of generators."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def make_bar(console: Console, *fields: str) -> Progress:
    """A progress bar with the time passed and the time left; outside a terminal it shows nothing.

    fields: names of a task's fields to show beside it.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=18),
        *(TextColumn(f"{{task.fields[{name}]}}") for name in fields),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
