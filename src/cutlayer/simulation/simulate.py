"""A job on one machine: every device and the server in one process, resumable after any stop."""

from pathlib import Path

from cutlayer.errors import RunError
from cutlayer.job import Job, load_job
from cutlayer.record.checkpoint import states_of
from cutlayer.record.folder import JOB_FILE, ROSTER_FILE
from cutlayer.record.row_lines import read_rows
from cutlayer.record.writing import new_folder
from cutlayer.rounds.loop import run_rounds
from cutlayer.rounds.progress import Progress, Silent, watched
from cutlayer.rounds.result import Result
from cutlayer.rounds.run_folder import begin_run, saved_run
from cutlayer.simulation.local_fleet import LocalFleet
from cutlayer.train.parts import Parts, load_parts, parts_for


def simulate(
    job: Job,
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    parts: Parts | None = None,
) -> Result:
    """Train `job` and write its run folder.

    out: the run folder (None: a new one below runs/). parts: model and data loaded before, by
    `load_parts` of a job with the same model, data, devices and seed. progress: hears how it goes
    (None: printed in a notebook, silent elsewhere).
    Raises JobError, DataError, ModelError, WorldError or RunError, each with one sentence.
    """
    if out is not None and (Path(out) / JOB_FILE).exists():
        raise RunError(
            f"run folder: {out} already holds a run: give another with --out, or continue it "
            f"with cutlayer simulate --resume {out}"
        )
    progress = watched(progress)
    parts = parts_for(job, parts) if parts else load_parts(job, progress.say)
    folder = Path(out) if out is not None else new_folder(job.method.name)
    state = begin_run(folder, job, parts)
    return run_rounds(folder, job, parts, LocalFleet(job, parts), state, [], progress)


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
    folder: str | Path, *, rounds: int | None = None, progress: Progress | None = None
) -> Result:
    """Go on with the run in `folder` after its last finished round.

    rounds: of the whole run, where it is to have other than its job says; refused where a schedule
    went by the job's rounds. It ends with the adapter that an uninterrupted run of so many rounds
    would have reached. Raises as `simulate`.
    """
    folder = Path(folder)
    if (folder / ROSTER_FILE).exists():
        raise RunError(
            f"--resume: the devices of {folder} joined over a network: go on with "
            f"cutlayer serve --resume {folder}"
        )
    progress = watched(progress)
    job, parts, state, rows = saved_run(folder, progress.say, rounds)
    return run_rounds(folder, job, parts, LocalFleet(job, parts), state, rows, progress)
