"""The commands that show runs: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cutlayer.commands.console import console, fail, say

PANEL = "See"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, or folders of run folders (a comparison).")
    ],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    reference: Annotated[
        Path | None, typer.Option(help="A run that the others are measured against.")
    ] = None,
    images: Annotated[
        int, typer.Option(min=0, help="Test images to show kept patches on; 0 for none.")
    ] = 6,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for the figures as PNG, SVG and PDF.")
    ] = None,
) -> None:
    """Write one page about runs that works offline, and figures for a paper."""
    from cutlayer.reports.build_report import report as write

    with console.status("report") as status:
        found = write(
            runs,
            out=out,
            reference=reference,
            images=images,
            figures_folder=figures,
            say=lambda sentence: status.update(f"report: {escape(sentence)}"),
        )
    for sentence in found.left_out:
        say(f"note     {sentence}")
    say(f"page     {found.page}")
    for path in found.figures:
        say(f"figure   {path}")


@app.command(rich_help_panel=PANEL)
def track(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    to: Annotated[str, typer.Option(help="tensorboard, mlflow or wandb.")],
    where: Annotated[
        str | None,
        typer.Option(help="Folder of event files, or MLflow's tracking URI, or W&B's folder."),
    ] = None,
    project: Annotated[
        str, typer.Option(help="MLflow's experiment or W&B's project.")
    ] = "cutlayer",
    follow: Annotated[
        bool, typer.Option(help="Go on until the run's last round; for one run.")
    ] = False,
) -> None:
    """Send the record of runs to TensorBoard, MLflow or Weights & Biases."""
    from cutlayer.reports.trackers import track as send

    if follow and len(runs) > 1:
        fail("--follow: follows one run: name one")
    for run in runs:
        say(f"tracked  {run}: {send(run, to=to, where=where, project=project, follow=follow)}")


@app.command(rich_help_panel=PANEL)
def dashboard(
    runs: Annotated[
        Path, typer.Argument(help="A folder with run folders in it, at any of three levels.")
    ] = Path("runs"),
    listen: Annotated[str, typer.Option(help="HOST:PORT of the page.")] = "127.0.0.1:7312",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="CUTLAYER_DASHBOARD_TOKEN",
            help="What a browser has to give; made up where the address is not this machine's own.",
        ),
    ] = None,
) -> None:
    """Show runs in a browser while they go on; nothing is changed and nothing sent elsewhere."""
    from cutlayer.dashboard.serve import dashboard as show

    show(runs, listen=listen, token=token, say=say)
