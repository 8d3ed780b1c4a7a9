"""The live bar of everything that takes minutes."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def make_bar(console: Console, *fields: str) -> Progress:
    """A bar in a terminal, nothing elsewhere, with the times behind and ahead.

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
