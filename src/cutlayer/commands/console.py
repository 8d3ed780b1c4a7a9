"""What all commands share: the console, how they print and fail, and their common arguments."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from cutlayer.harmless import harmless

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
