"""The commands that list what a job can name."""

from collections.abc import Mapping

import typer
from rich.markup import escape
from rich.table import Table

from cutlayer.commands.console import console
from cutlayer.commands.settings import settings

PANEL = "What a job can name"
app = typer.Typer()
app.command(rich_help_panel=PANEL)(settings)


@app.command("methods", rich_help_panel=PANEL)
def list_methods() -> None:
    """The methods a job can name."""
    from cutlayer.methods import NAMES, summary

    _list({name: summary(name) for name in NAMES})


@app.command("models", rich_help_panel=PANEL)
def list_models() -> None:
    """The models a job can name."""
    from cutlayer.model.families import SUPPORTED

    checkpoints = f"a checkpoint (config.json and safetensors) of type {', '.join(SUPPORTED)}"
    _list(
        {
            "demo": "the bundled ViT for 28 x 28 grey images, 49 tokens + CLS",
            "resnet18": "ResNet-18 with random weights and nine cuts, for method.train full",
            "a folder": checkpoints,
            "a name": f"the Hugging Face hub's name of {checkpoints}",
        }
    )


@app.command("data", rich_help_panel=PANEL)
def list_data() -> None:
    """The data sources a job can name."""
    from cutlayer.data.sources import SOURCES

    _list(SOURCES)


def _list(texts: Mapping[str, str]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, text in texts.items():
        table.add_row(f"[bold]{escape(name)}[/]", escape(text))
    console.print(table)
