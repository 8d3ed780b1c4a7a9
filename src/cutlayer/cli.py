"""The command line: parses, calls, prints."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cutlayer import __version__
from cutlayer.errors import CutlayerError

if TYPE_CHECKING:
    from cutlayer.run.compare import Comparison
    from cutlayer.run.progress import OnConsole

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Fine-tune a large transformer across devices that cannot hold it, "
    "over links that cannot carry it.",
)
console = Console()

JobFile = Annotated[
    Path | None, typer.Argument(help="A YAML job; without one, the built-in defaults.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting on top of the job, as in training.rounds=3."),
]


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


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Folder of the runs.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
) -> None:
    """Ten devices fine-tune a ViT through a cut, three ways; about two minutes on two cores."""
    from cutlayer.run.demo import run_demo

    with _watched() as progress:
        _show(run_demo(out, seed, progress))


@app.command()
def simulate(
    job: JobFile = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; a new one below runs/.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder, without a JOB.")
    ] = None,
) -> None:
    """Train a job on this machine, device by device, and write its run folder."""
    from cutlayer.job import load_job
    from cutlayer.run import simulate as runs

    if resume and (job or settings or out):
        _fail("--resume: the folder holds its job: leave out JOB, --set and --out")
    with _watched() as progress:
        if resume:
            result = runs.resume(resume, progress)
        else:
            result = runs.simulate(load_job(job, settings or []), out, progress=progress)
    _say(
        f"accuracy {100 * result.accuracy:.1f} %, {result.up_bytes / 1e6:.1f} MB up, "
        f"{result.down_bytes / 1e6:.1f} MB down"
    )
    _say(f"adapter  {result.adapter_folder}")
    _say(f"figures  {result.folder / 'figures'}")


@app.command()
def compare(
    job: JobFile = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Methods, separated by commas, each with settings after it and a label before "
            "it if you like, as in 'sflora, small = tsflora tokens.keep=24 uplink.bits=4'."
        ),
    ] = "sflora, tsflora",
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs.")] = None,
) -> None:
    """Train several methods on the same devices, data and seed; one table, one set of pictures."""
    from cutlayer.job import load_job
    from cutlayer.run import compare as comparisons

    with _watched() as progress:
        _show(comparisons.compare(load_job(job, settings or []), methods.split(","), out, progress))


@app.command("methods")
def list_methods() -> None:
    """The methods a job can name."""
    from cutlayer.methods import NAMES, summary

    _list({name: summary(name) for name in NAMES})


@app.command("models")
def list_models() -> None:
    """The models a job can name."""
    from cutlayer.model.families import SUPPORTED

    checkpoints = f"a checkpoint (config.json and safetensors) of type {', '.join(SUPPORTED)}"
    _list(
        {
            "demo": "the bundled ViT for 28 x 28 grey images, 49 tokens + CLS",
            "a folder": checkpoints,
            "a name": f"the Hugging Face hub's name of {checkpoints}",
        }
    )


@app.command("data")
def list_data() -> None:
    """The data sources a job can name."""
    from cutlayer.data.sources import SOURCES

    _list(SOURCES)


def _list(texts: Mapping[str, str]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, text in texts.items():
        table.add_row(f"[bold]{escape(name)}[/]", escape(text))
    console.print(table)


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _show(comparison: "Comparison") -> None:
    for table in comparison.tables():
        console.print(table)
    for line in comparison.where():
        _say(line)


@contextmanager
def _watched() -> Iterator["OnConsole"]:
    """Progress on the console; an interrupted run says how to go on with it."""
    from cutlayer.run.progress import OnConsole

    with OnConsole(console) as progress:
        try:
            yield progress
        except KeyboardInterrupt:
            progress.__exit__(None, None, None)
            _fail(progress.interrupted(), status=130)


def _fail(sentence: str, status: int = 2) -> NoReturn:
    Console(stderr=True).print(
        f"[red]cutlayer:[/] {escape(sentence)}", highlight=False, soft_wrap=True
    )
    raise SystemExit(status)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; errors are one sentence on standard error, status 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except CutlayerError as error:
        _fail(str(error))
