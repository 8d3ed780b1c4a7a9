"""A job whose devices are all simulated, in one process or over ranks, resumable after any stop."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from cutlayer.errors import RunError
from cutlayer.job import Job, load_job
from cutlayer.programs.packages import blocks_for
from cutlayer.record.checkpoint import states_of
from cutlayer.record.folder import JOB_FILE, ROSTER_FILE
from cutlayer.record.row_lines import read_rows
from cutlayer.record.writing import new_folder
from cutlayer.rounds.loop import run_rounds
from cutlayer.rounds.progress import Progress, Silent, watched
from cutlayer.rounds.result import Result
from cutlayer.rounds.run_folder import begin_run, saved_run
from cutlayer.simulation.local_fleet import LocalFleet
from cutlayer.simulation.ranks import Ranks
from cutlayer.simulation.sharded_fleet import ShardedFleet, load_on_all
from cutlayer.train.parts import Parts, load_parts, parts_for


def simulate(
    job: Job,
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    parts: Parts | None = None,
    ranks: Ranks | None = None,
) -> Result:
    """Train `job` and write its run folder.

    out: the run folder (None: a new one below runs/). parts: model and data loaded before, by
    `load_parts` of a job with the same model, data, devices and seed. progress: hears how it goes
    (None: printed in a notebook, silent elsewhere). ranks: the processes of `torchrun` over which
    the devices of a round are spread, in rank 0 of them; all then load model and data anew.
    Raises JobError, DataError, ModelError, WorldError or RunError, each with one sentence.
    """
    if out is not None and (Path(out) / JOB_FILE).exists():
        raise RunError(
            f"run folder: {out} already holds a run: give another with --out, or continue it "
            f"with cutlayer simulate --resume {out}"
        )
    progress = watched(progress)
    parts = parts_for(job, parts) if parts and ranks is None else _loading(ranks)(job, progress.say)
    parts = replace(parts, blocks=blocks_for(job, parts.model))
    folder = Path(out) if out is not None else new_folder(job.method.name)
    state = begin_run(folder, job, parts)
    return run_rounds(folder, job, parts, _fleet(job, parts, ranks), state, [], progress)


def finished_run(folder: Path, parts: Parts) -> Result:
    """What a run in `folder` left behind that another process finished.

    parts: the model and data of its job. Raises JobError or RunError for a folder that is damaged.
    """
    job = load_job(folder / JOB_FILE)
    say = Silent().say
    state = next(states_of(folder, say), None)
    if state is None or state.rounds < job.training.rounds:
        raise RunError(f"run folder: the run in {folder} did not finish: run it again")
    rows = read_rows(folder, say, job.devices.count)
    return Result(folder, job, rows, state.adapter, len(parts.test.classes), len(parts.test))


def resume(
    folder: str | Path,
    *,
    rounds: int | None = None,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> Result:
    """Go on with the run in `folder` after its last finished round.

    folder: of the run. progress: hears what happens (None: nobody does).
    `saved_run` (rounds/run_folder.py) reads back the job, its last sound state and the rows of its
    finished rounds; `run_rounds` (rounds/loop.py) goes on with the round after those. The command
    line's `--resume` (commands/training.py) calls this.

    rounds: how many the whole run is to have, if not as many as its job says; refused if the
    learning rate follows a schedule, which goes by the job's rounds. ranks: as of `simulate`; they
    need not be as many as before. The run ends with the adapter that an uninterrupted run of so
    many rounds would have reached. Raises as `simulate`.
    """
    folder = Path(folder)
    if (folder / ROSTER_FILE).exists():
        raise RunError(
            f"--resume: the devices of {folder} joined over a network: go on with "
            f"cutlayer serve --resume {folder}"
        )
    progress = watched(progress)
    job, parts, state, rows = saved_run(folder, progress.say, rounds, _loading(ranks))
    parts = replace(parts, blocks=blocks_for(job, parts.model))
    return run_rounds(folder, job, parts, _fleet(job, parts, ranks), state, rows, progress)


def _loading(ranks: Ranks | None) -> Callable[[Job, Callable[[str], object]], Parts]:
    """What loads model and data: here, or on every rank."""
    if ranks is None:
        return load_parts
    return partial(load_on_all, ranks=ranks)


def _fleet(job: Job, parts: Parts, ranks: Ranks | None) -> LocalFleet:
    """The devices, in this process or over the ranks that have a part in the job."""
    if ranks is None or not ranks.at_work:
        return LocalFleet(job, parts)
    return ShardedFleet(job, parts, ranks)
