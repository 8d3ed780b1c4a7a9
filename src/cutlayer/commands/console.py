"""What all commands share: the console, how they print and fail, and their common arguments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from cutlayer.harmless import harmless

if TYPE_CHECKING:
    from cutlayer.rounds.result import Result

console = Console()

JobFile = Annotated[
    Path | None, typer.Argument(help="A YAML job; without one, the built-in defaults.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="A setting on top of the job, as in training.rounds=3."
    ),
]


def say(line: str) -> None:
    """Print one line as it is, whatever characters it holds."""
    console.print(harmless(line), highlight=False, markup=False, soft_wrap=True)


def fail(sentence: str, status: int = 2) -> NoReturn:
    """Print one sentence on standard error and leave with `status`."""
    Console(stderr=True).print(
        f"[red]cutlayer:[/] {escape(harmless(sentence))}", highlight=False, soft_wrap=True
    )
    raise SystemExit(status)


def say_end(result: Result) -> None:
    """Print what a run reached and where it lies; leave with status 1 where it got worse."""
    say(
        f"accuracy {result.accuracy_said}, {result.up_bytes / 1e6:.1f} MB up, "
        f"{result.down_bytes / 1e6:.1f} MB down"
    )
    say(f"adapter  {result.adapter_folder}")
    say(f"figures  {result.folder / 'figures'}")
    say(f"see it   cutlayer report {result.folder}")
    if result.worse:
        say(result.worse)
        raise SystemExit(1)
