"""The commands `cutlayer world ...`: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from cutlayer.commands.console import say

app = typer.Typer(no_args_is_help=True, help="Vehicles: drive them by SUMO, look at their stay.")


@app.command()
def sumo(
    out: Annotated[Path, typer.Option(help="The trace, a CSV file.")],
    scenario: Annotated[str, typer.Option(help="What is driven: highway.")] = "highway",
    density: Annotated[str, typer.Option(help="low, medium or high.")] = "low",
    vehicles: Annotated[int, typer.Option(help="How many are written.")] = 20,
    seconds: Annotated[float, typer.Option(help="How long a trace.")] = 600.0,
    every: Annotated[float, typer.Option(help="Seconds between its rows.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
) -> None:
    """Run a SUMO scenario headless and write where its vehicles went, for any job to replay."""
    from cutlayer.world.sumo import export

    there = export(
        out,
        scenario=scenario,
        density=density,
        seconds=seconds,
        every_s=every,
        vehicles=vehicles,
        seed=seed,
    )
    say(f"trace    {out}  ({vehicles} of {there} vehicles, {seconds:g} s)")
    say(
        f"use it   --set devices.count={vehicles} --set world.mobility.kind=trace "
        f"--set world.mobility.path={out}"
    )


@app.command()
def stay(
    trace: Annotated[str, typer.Argument(help="A trace of positions (CSV or FCD), or demo.")],
    vehicles: Annotated[int, typer.Option(help="How many it holds.", min=1)] = 20,
    coverage: Annotated[float, typer.Option(help="Radius of coverage in m.", min=1)] = 500.0,
    x: Annotated[float, typer.Option(help="Where the server is in the trace, in m.")] = 0.0,
    y: Annotated[float, typer.Option(help="Where the server is in the trace, in m.")] = 0.0,
    out: Annotated[Path, typer.Option(help="A PNG file for the figure.")] = Path("stay.png"),
) -> None:
    """Compare how long a trace's vehicles stay in coverage with the models' (L - l) / v."""
    import numpy as np

    from cutlayer.drawing.stay_plot import draw_stays
    from cutlayer.errors import WorldError
    from cutlayer.record.writing import writing
    from cutlayer.world.stay import compare_stays
    from cutlayer.world.traces import read_positions

    found = compare_stays(read_positions(trace, vehicles), coverage, server_x_m=x, server_y_m=y)
    if not len(found.seen_s):
        raise WorldError(
            f"--coverage: within {coverage:g} m of the server no vehicle of the trace comes and "
            "goes: widen the coverage, or set --x and --y"
        )
    with writing(out):
        draw_stays(found.seen_s, found.radial_s, found.straight_s, out)
    for name, model_s in (("(L - l) / v", found.radial_s), ("straight on", found.straight_s)):
        off, over = model_s - found.seen_s, model_s > found.seen_s + 1
        middle = float(np.median(off))
        say(
            f"{name} expects stays {abs(middle):.2f} s {'longer' if middle > 0 else 'shorter'} "
            f"than they were (median); it is over a second too long for "
            f"{100 * over.mean():.1f} % of {len(off)} sightings"
        )
    say(f"figure   {out}")
