"""The beginning of a run: its folder is made, or what an earlier one holds is read back."""

from pathlib import Path

from cutlayer.drawing import plots
from cutlayer.errors import RunError
from cutlayer.files import write_atomically
from cutlayer.job import Job, dump_job, load_job
from cutlayer.record.checkpoint import RunState, load_state
from cutlayer.record.folder import JOB_FILE, STATE_FILE
from cutlayer.record.rows import FILE, Row, read_rows
from cutlayer.record.writing import writing
from cutlayer.train.parts import Parts, first_adapter, load_parts


def saved_run(folder: Path) -> tuple[Job, Parts, RunState, list[Row]]:
    """What a run goes on from: its job, and the state and the rows of its finished rounds.

    Raises as `simulate`.
    """
    if not (folder / JOB_FILE).is_file():
        raise RunError(f"--resume: {folder} holds no run: give the folder of a run")
    job = load_job(folder / JOB_FILE)
    parts = load_parts(job)
    if not (folder / STATE_FILE).exists():  # stopped before its first round was finished
        return job, parts, begin_run(folder, job, parts), []
    state = load_state(folder / STATE_FILE)
    rows = read_rows(folder)[: state.rounds]
    if len(rows) < state.rounds:
        raise RunError(
            f"--resume: {folder / FILE} has {len(rows)} rounds but {STATE_FILE} comes from round "
            f"{state.rounds}: start the run again in a new folder"
        )
    with writing(folder):  # a round recorded but not committed is run again
        write_atomically(folder / FILE, "".join(r.to_json() + "\n" for r in rows).encode())
    return job, parts, state, rows


def begin_run(folder: Path, job: Job, parts: Parts) -> RunState:
    """Make a run folder, with the job and the picture of who holds what; the state to begin with.

    Raises RunError.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / JOB_FILE, dump_job(job).encode())
        write_atomically(folder / FILE, b"")
        (folder / "figures").mkdir(exist_ok=True)
        plots.label_map(parts.counts, parts.train.classes, folder / "figures" / "labels.png")
    return RunState(0, first_adapter(job, parts.model))
