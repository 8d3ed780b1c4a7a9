"""The commands that plan and measure without training: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from cutlayer.commands.console import JobFile, Settings, console, fail, say
from cutlayer.errors import JobError

PANEL = "Plan and measure"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def calibrate(
    job: JobFile = None,
    settings: Settings = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Samples of data.calibration [128, or half of what there is]."),
    ] = None,
    cuts: Annotated[str | None, typer.Option(help="Cuts, as in 1,2,4.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens kept, as in 8,16,all.")] = None,
    bits: Annotated[
        str | None, typer.Option(help="Bits, as in 2,4,8; with codec klt rates, as in 0.25,0.5.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Folder of a trained adapter to measure with.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A JSON file for the record in float32 too.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="A PNG file for a figure of what is kept in float32.")
    ] = None,
) -> None:
    """Measure how much of a model's output survives each cut, number of tokens and bits."""
    from cutlayer.job import load_job
    from cutlayer.planning.calibration import view
    from cutlayer.planning.calibration.record import (
        cache_file,
        calibration_for,
        write_calibration,
    )

    chosen = load_job(job, settings or [])
    grid = (view.numbers("--cuts", cuts), view.token_numbers("--tokens", tokens))
    widths = view.values("--bits", bits)
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
                say=say,
            )
    except KeyboardInterrupt:
        fail("stopped: nothing was stored", status=130)
    console.print(view.table(found))
    for line in view.sentences(found):
        say(line)
    say(f"record   {cache_file(found.subject)}")
    for precision in chosen.method.allocation.precisions:
        other = None if precision == "float32" else calibration_for(chosen, precision=precision)
        if other is not None:
            console.print(view.table(other))
            say(f"record   {cache_file(other.subject)}")
    if out:
        say(f"record   {write_calibration(found, out)}")
    if figure:
        view.draw(found, figure)
        say(f"figure   {figure}")


@app.command(rich_help_panel=PANEL)
def audit(
    what: Annotated[
        Path | None,
        typer.Argument(
            metavar="[JOB|RUN]",
            help="A YAML job, or the folder of a finished run; else the built-in defaults.",
        ),
    ] = None,
    settings: Settings = None,
    cuts: Annotated[str | None, typer.Option(help="Cuts, as in 1,2,4.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens kept, as in 8,16,all.")] = None,
    bits: Annotated[
        str | None, typer.Option(help="Bits, as in 2,4,8; with codec klt rates, as in 0.25,0.5.")
    ] = None,
    attacked: Annotated[int, typer.Option(help="Images to make again.")] = 64,
    public: Annotated[
        int | None, typer.Option(help="Other images that decoders are trained on [all there are].")
    ] = None,
    decoder_steps: Annotated[
        int, typer.Option(min=0, help="Steps of training each decoder.")
    ] = 100,
    inversion_steps: Annotated[
        int, typer.Option(min=0, help="Steps of descent on pixels; 0: none.")
    ] = 20,
    inverted: Annotated[
        int, typer.Option(min=1, help="Images of those attacked that this is tried on.")
    ] = 4,
    device: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Of a run, whose adapter, where each has its own."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the record too.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="A PNG file for the reconstructions.")] = None,
) -> None:
    """Attack what crosses the cut, and measure what a curious server could learn."""
    from cutlayer.drawing import tables
    from cutlayer.job import load_job
    from cutlayer.planning.calibration import view as options
    from cutlayer.planning.leakage import view

    run = what if what is not None and what.is_dir() else None
    if run is not None and settings:
        raise JobError(f"--set: {run} is a run, whose job is what it was: leave --set out")
    chosen = load_job(what, settings or []) if run is None else run
    grid = (options.numbers("--cuts", cuts), options.token_numbers("--tokens", tokens))
    widths = options.values("--bits", bits)
    try:
        with options.bar(console) as progress:
            from cutlayer.privacy.attacks import Effort
            from cutlayer.privacy.audit import audit as attack

            found = attack(
                chosen,
                cuts=grid[0],
                tokens=grid[1],
                bits=widths,
                effort=Effort(public, attacked, decoder_steps, inversion_steps, inverted),
                device=device,
                out=out,
                sheet=sheet,
                progress=progress,
                say=say,
            )
    except KeyboardInterrupt:
        fail("stopped: nothing was stored", status=130)
    title = "What a curious server makes of images"
    console.print(tables.render(view.rows(found.leakage), view.columns(found.leakage), title))
    for line in view.sentences(found.leakage):
        say(line)
    say(f"record   {found.record}")
    if found.sheet is not None:
        say(f"sheet    {found.sheet}")


@app.command(rich_help_panel=PANEL)
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
    every: Annotated[
        bool,
        typer.Option("--all", help="A row for each device, however many; else of up to 40."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for a CSV file with every device, and pictures of the plan."),
    ] = None,
) -> None:
    """Solve only the allocation: who takes part and with what, and what a round takes."""
    from cutlayer.job import load_job
    from cutlayer.planning import plan as plans
    from cutlayer.planning import plan_files, plan_sweep, plan_totals
    from cutlayer.planning.plan_samples import own_bytes_sentence

    asked = plans.in_a_world(load_job(job, settings or []))
    written: list[Path] = []
    if sweep:
        rows = plan_sweep.sweep(asked, setting=sweep, draws=draws, round=round)
        console.print(plan_sweep.sweep_table(rows))
        written = plan_files.write_sweep(rows, out) if out else []
    else:
        found = plans.plan(asked, round=round)
        console.print(found.table(every=every))
        for sentence in [*found.sentences(), *plan_totals.sentences(found)]:
            say(sentence)
        own = own_bytes_sentence(asked, found.known.loads.spec)
        if own is not None:
            say(own)
        if draws > 1:
            drawn = plan_totals.draws_of(plans.Planner(asked), draws, round)
            console.print(plan_totals.draws_table(drawn))
        written = plan_files.write_plan(found, out) if out else []
    for path in written:
        say(f"written  {path}")
