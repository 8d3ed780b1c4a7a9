"""The command line: the commands of cutlayer/commands joined, and errors made one sentence."""

import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from cutlayer import __version__
from cutlayer.commands import (
    generator,
    inference,
    keys,
    names,
    network,
    planning,
    training,
    viewing,
    world,
)
from cutlayer.commands.console import console, fail
from cutlayer.errors import CutlayerError, missing_package

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Fine-tune a large transformer across devices that cannot hold it, "
    "over links that cannot carry it.",
)
MAKE = "Make data and vehicles"
for group in (training, planning, viewing, inference, network, names):
    app.add_typer(group.app)
app.add_typer(keys.app, name="keys", rich_help_panel=network.PANEL)
app.add_typer(generator.app, name="generator", rich_help_panel=MAKE)
app.add_typer(world.app, name="world", rich_help_panel=MAKE)


def _version(value: bool) -> None:
    if value:
        console.print(f"cutlayer {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; errors are one sentence on standard error, status 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    # What a job names by module:OBJECT may lie where the command is given. Last, to hide nothing.
    sys.path.append(os.getcwd())
    try:
        app()
    except CutlayerError as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        sentence = missing_package(error)
        if sentence is None:
            raise
        fail(sentence)
