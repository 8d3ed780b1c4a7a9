"""The beginning of a run: its folder is made, or what an earlier one holds is read back."""

import json
from collections.abc import Sequence
from pathlib import Path

from cutlayer.drawing import plots
from cutlayer.errors import JobError, RunError
from cutlayer.files import write_atomically
from cutlayer.job import Job, change_job, dump_job, load_job
from cutlayer.own_code import refresh
from cutlayer.record.checkpoint import RunState, load_state
from cutlayer.record.folder import CODE_FILE, JOB_FILE, STATE_FILE
from cutlayer.record.rows import FILE, Row, read_rows
from cutlayer.record.writing import writing
from cutlayer.train.parts import Parts, first_adapter, load_parts


def saved_run(folder: Path, rounds: int | None = None) -> tuple[Job, Parts, RunState, list[Row]]:
    """What a run goes on from: its job, and the state and the rows of its finished rounds.

    rounds: of the whole run, where they are to be other than the job's; the folder's job then has
    them. Raises as `simulate`.
    """
    if not (folder / JOB_FILE).is_file():
        raise RunError(f"--resume: {folder} holds no run: give the folder of a run")
    job = load_job(folder / JOB_FILE)
    _check_code(folder, job)
    parts = load_parts(job)
    begun = (folder / STATE_FILE).exists()
    if rounds is not None and rounds != job.training.rounds:
        done = load_state(folder / STATE_FILE).rounds if begun else 0
        job = _with_rounds(folder, job, rounds, done)
    if not begun:  # stopped before its first round was finished
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


def rounds_to_resume(settings: Sequence[str]) -> int | None:
    """The rounds that `--set` asks of a run that goes on, which no other setting can change.

    Raises JobError for any other setting, by its name.
    """
    rounds = None
    for setting in settings:
        name = setting.partition("=")[0].strip()
        if name != "training.rounds":
            raise JobError(
                f"--set: {name} cannot change in a run that goes on, only training.rounds can: "
                "begin a new run, from this one's adapter by model.adapter"
            )
        rounds = load_job(None, [setting]).training.rounds
    return rounds


def _with_rounds(folder: Path, job: Job, rounds: int, done: int) -> Job:
    """The job with other rounds, as if it had had them from the beginning. Raises JobError."""
    training = job.training
    if rounds <= done:
        raise JobError(
            f"training.rounds: {rounds} but {folder} has finished {done} rounds: give more"
        )
    spans = {"schedule": training.schedule != "constant", "warmup_share": training.warmup_share}
    for name, spanning in spans.items():
        if spanning and done:
            raise JobError(
                f"training.rounds: {rounds} but training.{name} {getattr(training, name)} went by "
                f"the job's {training.rounds} rounds, so the finished ones would not be those of "
                f"{rounds}: begin a new run, from this one's adapter by model.adapter"
            )
    changed = change_job(job, [f"training.rounds={rounds}"])
    with writing(folder):
        write_atomically(folder / JOB_FILE, dump_job(changed).encode())
    return changed


def begin_run(folder: Path, job: Job, parts: Parts) -> RunState:
    """Make a run folder, with the job and the picture of who holds what; the state to begin with.

    Where the job names code of one's own, the folder also gets the hash of each of its files.
    Raises JobError or RunError.
    """
    hashes = refresh(job.own_code)
    first = first_adapter(job, parts.model, parts.train.classes)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / JOB_FILE, dump_job(job).encode())
        write_atomically(folder / FILE, b"")
        if hashes:
            write_atomically(folder / CODE_FILE, json.dumps(hashes, indent=1).encode())
        (folder / "figures").mkdir(exist_ok=True)
        plots.label_map(parts.counts, parts.train.classes, folder / "figures" / "labels.png")
    return RunState(0, first)


def _check_code(folder: Path, job: Job) -> None:
    """Raise RunError where the job's own code is no longer what the run began with."""
    if not (folder / CODE_FILE).is_file():
        return
    try:
        begun = json.loads((folder / CODE_FILE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"--resume: cannot read {folder / CODE_FILE} ({error}): begin anew"
        ) from None
    for setting, found in refresh(job.own_code).items():
        if not isinstance(begun, dict) or begun.get(setting) != found:
            raise RunError(
                f"--resume: {setting} names {job.own_code[setting]}, whose file has changed since "
                f"{folder} began: put it back as it was, or begin a new run"
            )
