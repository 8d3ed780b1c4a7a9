"""Whole runs over the ranks of `torchrun`: each rank takes the next run until none is left."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cutlayer.errors import CutlayerError, JobError, RunError
from cutlayer.job import Job, make_job
from cutlayer.record.folder import JOB_FILE
from cutlayer.simulation.parcel import Parcel
from cutlayer.simulation.ranks import Ranks
from cutlayer.simulation.simulate import simulate
from cutlayer.simulation.workers import Run
from cutlayer.train.parts import Parts, load_parts

Say = Callable[[str], object]


def run_on_ranks(runs: Sequence[Run], ranks: Ranks, say: Say) -> None:
    """Simulate each run on one of the ranks, in rank 0 of them.

    say: told of each run that begins on rank 0. A run that fails lets the others end, and no more
    begin: RunError, with what it said. Raises JobError for more ranks than runs.
    """
    if ranks.count > len(runs):
        raise JobError(
            f"torchrun: {ranks.count} ranks but {len(runs)} runs (methods times seeds): start "
            f"--nproc-per-node {len(runs)} at most, or name more seeds"
        )
    say(f"{len(runs)} runs on {ranks.count} ranks; this console shows those of rank 0")
    told = [[run.job.model_dump(mode="json"), str(run.folder.resolve())] for run in runs]
    ranks.ask(Parcel({"runs": told}), lambda: _take(runs, ranks, say))
    for run in runs:
        if not (run.folder / JOB_FILE).is_file():
            raise RunError(
                f"torchrun: the run in {run.folder} was written on another machine: give --out a "
                "folder that all machines share"
            )


def answer_runs(request: Parcel, ranks: Ranks) -> Parcel:
    """What a rank other than 0 does of a comparison. Raises what its runs raise."""
    runs = [Run(make_job(job), Path(folder)) for job, folder in request.values["runs"]]
    return _take(runs, ranks, lambda said: None)


def _take(runs: Sequence[Run], ranks: Ranks, say: Say) -> Parcel:
    """Run the next run that no rank has taken, until none is left or one has failed."""
    parts: tuple[object, Parts] | None = None
    try:
        while not ranks.has_failed() and (number := ranks.take_number()) < len(runs):
            run = runs[number]
            ranks.use(run.job)
            say(f"{run.folder.name}: run {number + 1} of {len(runs)}")
            if parts is None or parts[0] != _loaded(run.job):
                parts = _loaded(run.job), load_parts(run.job)
            try:
                simulate(run.job, out=run.folder, parts=parts[1])
            except CutlayerError as error:
                raise RunError(f"torchrun: the run in {run.folder} failed: {error}") from None
    except CutlayerError:
        ranks.fail()
        raise
    return Parcel()


def _loaded(job: Job) -> object:
    """The settings that decide which model and data are loaded."""
    return job.model, job.data, job.devices.count, job.seed
