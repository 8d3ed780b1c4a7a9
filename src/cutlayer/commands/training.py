"""The commands that train: parse, call, print."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cutlayer.commands.console import JobFile, Settings, console, fail, say, say_end

if TYPE_CHECKING:
    from cutlayer.rounds.progress import OnConsole
    from cutlayer.simulation.comparison import Comparison
    from cutlayer.simulation.parcel import Parcel
    from cutlayer.simulation.ranks import Ranks

PANEL = "Train"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def demo(
    out: Annotated[Path | None, typer.Option(help="Folder of the runs.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
) -> None:
    """Ten devices fine-tune a ViT through a cut, three ways; about two minutes on two cores."""
    from cutlayer.simulation.demo import demo as run

    with _watched() as progress:
        _show(run(out=out, seed=seed, progress=progress))


@app.command(rich_help_panel=PANEL)
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
    """Train a job on this machine, device by device, and write its run folder.

    Started by torchrun, the devices of each round are spread over its processes.
    """
    from cutlayer.job import load_job
    from cutlayer.rounds.run_folder import changes_to_resume
    from cutlayer.simulation import simulate as runs
    from cutlayer.simulation.ranks import joined_ranks
    from cutlayer.simulation.sharded_fleet import RankWorker

    with joined_ranks() as ranks:
        if ranks and ranks.rank:
            _serve(ranks, RankWorker(ranks).answer)
            return
        if resume and (job or out):
            fail("--resume: the folder holds its job: leave out JOB and --out")
        with _watched() as progress:
            if resume:
                rounds = changes_to_resume(settings or []).rounds
                result = runs.resume(resume, rounds=rounds, progress=progress, ranks=ranks)
            else:
                chosen = load_job(job, settings or [])
                result = runs.simulate(chosen, out=out, progress=progress, ranks=ranks)
    say_end(result)


@app.command(rich_help_panel=PANEL)
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
    workers: Annotated[
        int, typer.Option(help="Runs at a time, each in a process of its own.", min=1)
    ] = 1,
    target: Annotated[
        float | None,
        typer.Option(
            help="Accuracy, as in 0.7, of which each method's bytes, seconds and joules are told; "
            "the highest that every run reached."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What may be spent, as in '5 MB, 2 min, 100 J': the highest accuracy within it is "
            "told; of each the least that a run spent."
        ),
    ] = None,
    drop_out: Annotated[
        float,
        typer.Option(
            help="Run each method again with this chance that a device is lost in a round.",
            min=0.0,
            max=0.99,
        ),
    ] = 0.0,
) -> None:
    """Train several methods on the same devices, data and seed; one table, one set of pictures.

    Started by torchrun, its processes share the runs.
    """
    from cutlayer.job import load_job, split_values
    from cutlayer.simulation import compare as comparisons
    from cutlayer.simulation.protocols import parse_budgets
    from cutlayer.simulation.ranks import joined_ranks
    from cutlayer.simulation.spread_runs import answer_runs

    with joined_ranks() as ranks:
        if ranks and ranks.rank:
            _serve(ranks, lambda request: answer_runs(request, ranks))
            return
        chosen, named = load_job(job, settings or []), split_values(methods)
        numbers = [] if seeds is None else [_seed(text) for text in split_values(seeds)]
        budgets = parse_budgets([] if budget is None else split_values(budget))
        with _watched() as progress:
            _show(
                comparisons.compare(
                    chosen,
                    methods=named,
                    seeds=numbers,
                    out=out,
                    workers=workers,
                    progress=progress,
                    ranks=ranks,
                    target=target,
                    budgets=budgets,
                    drop_out=drop_out,
                )
            )


def _serve(ranks: Ranks, answer: Callable[[Parcel], Parcel]) -> None:
    """Be one of the other ranks, which print nothing: rank 0 says why a run was stopped."""
    try:
        ranks.serve(answer)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _show(comparison: Comparison) -> None:
    for table in comparison.tables():
        console.print(table)
    if comparison.finding:
        say(comparison.finding)
    for line in comparison.where():
        say(line)


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        fail(f"--seeds: {text!r} is no seed: give whole numbers from 0, as in 0,1,2")
    return int(text)


@contextmanager
def _watched() -> Iterator[OnConsole]:
    """Progress on the console; an interrupted run says how to go on with it."""
    from cutlayer.rounds.progress import OnConsole

    with OnConsole(console) as progress:
        try:
            yield progress
        except KeyboardInterrupt:
            progress.__exit__(None, None, None)
            fail(progress.interrupted(), status=130)
