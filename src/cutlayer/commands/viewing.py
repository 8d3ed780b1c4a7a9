"""The commands that show runs: parse, call, print."""

import re
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
        list[Path],
        typer.Argument(help="Run folders, or folders of run folders, down to three levels."),
    ],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    reference: Annotated[
        Path | None, typer.Option(help="A run that the others are measured against.")
    ] = None,
    images: Annotated[
        int, typer.Option(min=0, help="Test images to show kept patches on; 0 for none.")
    ] = 6,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for the figures as files of their own.")
    ] = None,
    formats: Annotated[
        str, typer.Option(help="Formats of these, as in pdf or png,svg.")
    ] = "png,svg,pdf",
    width: Annotated[
        str | None,
        typer.Option(help="Draw them for a paper's column of this width, as in 3.5in or 88mm."),
    ] = None,
    font: Annotated[
        str | None, typer.Option(help="Their font, where --width is given, as in 'DejaVu Serif'.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="A CSV file for the table of all runs, as numbers.")
    ] = None,
    latex: Annotated[
        Path | None, typer.Option(help="A .tex file for that table, for LaTeX with booktabs.")
    ] = None,
) -> None:
    """Write one page about runs that works offline, and figures and a table for a paper."""
    from cutlayer.drawing.style import Column
    from cutlayer.job import split_values
    from cutlayer.reports.build_report import report as write

    if font is not None and width is None:
        fail("--font: is for figures of a column's width: give --width too, as in 3.5in")
    column = None if width is None else Column(_inches(width), font)
    with console.status("report") as status:
        found = write(
            runs,
            out=out,
            reference=reference,
            images=images,
            figures_folder=figures,
            formats=split_values(formats),
            column=column,
            csv=csv,
            latex=latex,
            say=lambda sentence: status.update(f"report: {escape(sentence)}"),
        )
    for sentence in found.left_out:
        say(f"note     {sentence}")
    say(f"page     {found.page}")
    for path in found.figures:
        say(f"figure   {path}")
    for path in found.tables:
        say(f"table    {path}")


def _inches(text: str) -> float:
    """A width such as 3.5in, 88mm or 8.8cm, in inches."""
    found = re.fullmatch(r"(\d{1,4}(?:\.\d{1,6})?) ?(in|mm|cm)", text)
    inches = float(found[1]) / {"in": 1.0, "mm": 25.4, "cm": 2.54}[found[2]] if found else 0.0
    if not 1 <= inches <= 20:
        fail(f"--width: {text!r} is no width of 1 to 20 inches: give one as in 3.5in or 88mm")
    return inches


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
        Path, typer.Argument(help="A folder that holds run folders, up to three levels down.")
    ] = Path("runs"),
    listen: Annotated[str, typer.Option(help="HOST:PORT of the page.")] = "127.0.0.1:7312",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="CUTLAYER_DASHBOARD_TOKEN",
            help="Token that a browser must give; made up if other machines can reach the address.",
        ),
    ] = None,
) -> None:
    """Show runs in a browser while they go on; nothing is changed and nothing sent elsewhere."""
    from cutlayer.dashboard.serve import dashboard as show

    show(runs, listen=listen, token=token, say=say)
