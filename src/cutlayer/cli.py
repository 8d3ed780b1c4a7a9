"""The command line: parses, calls, prints."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cutlayer import __version__
from cutlayer.commands.generator import app as generator
from cutlayer.commands.inference import app as inference
from cutlayer.commands.keys import app as keys
from cutlayer.commands.network import PANEL as NETWORK
from cutlayer.commands.network import app as network
from cutlayer.commands.settings import settings
from cutlayer.commands.world import app as world
from cutlayer.errors import CutlayerError, missing_package
from cutlayer.harmless import harmless

if TYPE_CHECKING:
    from cutlayer.rounds.progress import OnConsole
    from cutlayer.simulation.comparison import Comparison

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Fine-tune a large transformer across devices that cannot hold it, "
    "over links that cannot carry it.",
)
TRAIN, PLAN, SEE = "Train", "Plan and measure", "See"
MAKE, NAME = "Make data and vehicles", "What a job can name"
app.add_typer(keys, name="keys", rich_help_panel=NETWORK)
app.add_typer(generator, name="generator", rich_help_panel=MAKE)
app.add_typer(inference)
app.add_typer(network)
app.add_typer(world, name="world", rich_help_panel=MAKE)
app.command(rich_help_panel=NAME)(settings)
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


@app.command(rich_help_panel=TRAIN)
def demo(
    out: Annotated[Path | None, typer.Option(help="Folder of the runs.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
) -> None:
    """Ten devices fine-tune a ViT through a cut, three ways; about two minutes on two cores."""
    from cutlayer.simulation.demo import demo as run

    with _watched() as progress:
        _show(run(out=out, seed=seed, progress=progress))


@app.command(rich_help_panel=TRAIN)
def simulate(
    job: JobFile = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; a new one below runs/.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with the run in this folder, without a JOB; --set training.rounds=N gives "
            "it other rounds."
        ),
    ] = None,
) -> None:
    """Train a job on this machine, device by device, and write its run folder."""
    from cutlayer.job import load_job
    from cutlayer.rounds.run_folder import rounds_to_resume
    from cutlayer.simulation import simulate as runs

    if resume and (job or out):
        _fail("--resume: the folder holds its job: leave out JOB and --out")
    with _watched() as progress:
        if resume:
            result = runs.resume(resume, rounds=rounds_to_resume(settings or []), progress=progress)
        else:
            result = runs.simulate(load_job(job, settings or []), out=out, progress=progress)
    _say(
        f"accuracy {result.accuracy_said}, {result.up_bytes / 1e6:.1f} MB up, "
        f"{result.down_bytes / 1e6:.1f} MB down"
    )
    _say(f"adapter  {result.adapter_folder}")
    _say(f"figures  {result.folder / 'figures'}")
    _say(f"see it   cutlayer report {result.folder}")
    if result.worse:
        _say(result.worse)
        raise typer.Exit(1)


@app.command(rich_help_panel=TRAIN)
def compare(
    job: JobFile = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Methods, separated by commas, each with settings after it and a label before "
            "it if you like, as in 'sflora, small = tsflora tokens.keep=24 uplink.bits=4'."
        ),
    ] = "sflora, tsflora",
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Run each once for each seed, as in 0,1,2: mean, range and paired differences."
        ),
    ] = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs.")] = None,
) -> None:
    """Train several methods on the same devices, data and seed; one table, one set of pictures."""
    from cutlayer.job import load_job, split_values
    from cutlayer.simulation import compare as comparisons

    chosen, named = load_job(job, settings or []), split_values(methods)
    numbers = [] if seeds is None else [_seed(text) for text in split_values(seeds)]
    with _watched() as progress:
        _show(comparisons.compare(chosen, methods=named, seeds=numbers, out=out, progress=progress))


@app.command(rich_help_panel=PLAN)
def calibrate(
    job: JobFile = None,
    settings: Settings = None,
    samples: Annotated[int, typer.Option(help="Samples of the training split.")] = 128,
    cuts: Annotated[str | None, typer.Option(help="Cuts, as in 1,2,4.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens kept, as in 8,16,all.")] = None,
    bits: Annotated[str | None, typer.Option(help="Bits, as in 2,4,8.")] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Folder of a trained adapter to measure with.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the record too.")] = None,
    figure: Annotated[Path | None, typer.Option(help="A PNG file for a figure.")] = None,
) -> None:
    """Measure how much of a model's output survives each cut, number of tokens and bits."""
    from cutlayer.job import load_job
    from cutlayer.planning.calibration import view
    from cutlayer.planning.calibration.record import cache_file, write_calibration

    chosen = load_job(job, settings or [])
    grid = (view.numbers("--cuts", cuts), view.token_numbers("--tokens", tokens))
    widths = view.numbers("--bits", bits)
    try:
        with view.bar(console) as progress:
            from cutlayer.planning.calibration.calibrate import calibrate

            found = calibrate(
                chosen,
                samples=samples,
                cuts=grid[0],
                tokens=grid[1],
                bits=widths,
                adapter=adapter,
                progress=progress,
            )
    except KeyboardInterrupt:
        _fail("stopped: nothing was stored", status=130)
    console.print(view.table(found))
    for line in view.sentences(found):
        _say(line)
    _say(f"record   {cache_file(found.subject)}")
    if out:
        _say(f"record   {write_calibration(found, out)}")
    if figure:
        view.draw(found, figure)
        _say(f"figure   {figure}")


@app.command(rich_help_panel=PLAN)
def plan(
    job: JobFile = None,
    settings: Settings = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="Plan once for each value of a setting, as in world.bandwidth_hz=10e6,20e6; "
            "given twice, for each combination of values."
        ),
    ] = None,
    round: Annotated[int, typer.Option(min=0, help="The round to plan.")] = 0,
    draws: Annotated[
        int, typer.Option(min=1, help="Rounds to average over, each with a channel of its own.")
    ] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder for a CSV file and pictures of what is printed.")
    ] = None,
) -> None:
    """Solve only the allocation: who takes part and with what, and what a round takes."""
    from cutlayer.job import load_job
    from cutlayer.planning import plan as plans
    from cutlayer.planning import plan_files, plan_sweep, plan_totals

    asked = plans.in_a_world(load_job(job, settings or []))
    written: list[Path] = []
    if sweep:
        rows = plan_sweep.sweep(asked, setting=sweep, draws=draws, round=round)
        console.print(plan_sweep.sweep_table(rows))
        written = plan_files.write_sweep(rows, out) if out else []
    else:
        found = plans.plan(asked, round=round)
        console.print(found.table())
        for sentence in [*found.sentences(), *plan_totals.sentences(found)]:
            _say(sentence)
        if draws > 1:
            drawn = plan_totals.draws_of(plans.Planner(asked), draws, round)
            console.print(plan_totals.draws_table(drawn))
        written = plan_files.write_plan(found, out) if out else []
    for path in written:
        _say(f"written  {path}")


@app.command(rich_help_panel=SEE)
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
        _say(f"note     {sentence}")
    _say(f"page     {found.page}")
    for path in found.figures:
        _say(f"figure   {path}")


@app.command(rich_help_panel=SEE)
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
        _fail("--follow: follows one run: name one")
    for run in runs:
        _say(f"tracked  {run}: {send(run, to=to, where=where, project=project, follow=follow)}")


@app.command(rich_help_panel=SEE)
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

    show(runs, listen=listen, token=token, say=_say)


@app.command("methods", rich_help_panel=NAME)
def list_methods() -> None:
    """The methods a job can name."""
    from cutlayer.methods import NAMES, summary

    _list({name: summary(name) for name in NAMES})


@app.command("models", rich_help_panel=NAME)
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


@app.command("data", rich_help_panel=NAME)
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
    console.print(harmless(line), highlight=False, markup=False, soft_wrap=True)


def _show(comparison: "Comparison") -> None:
    for table in comparison.tables():
        console.print(table)
    for line in comparison.where():
        _say(line)


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        _fail(f"--seeds: {text!r} is no seed: give whole numbers from 0, as in 0,1,2")
    return int(text)


@contextmanager
def _watched() -> Iterator["OnConsole"]:
    """Progress on the console; an interrupted run says how to go on with it."""
    from cutlayer.rounds.progress import OnConsole

    with OnConsole(console) as progress:
        try:
            yield progress
        except KeyboardInterrupt:
            progress.__exit__(None, None, None)
            _fail(progress.interrupted(), status=130)


def _fail(sentence: str, status: int = 2) -> NoReturn:
    Console(stderr=True).print(
        f"[red]cutlayer:[/] {escape(harmless(sentence))}", highlight=False, soft_wrap=True
    )
    raise SystemExit(status)


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
        _fail(str(error))
    except ModuleNotFoundError as error:
        sentence = missing_package(error)
        if sentence is None:
            raise
        _fail(sentence)
