"""Begins a run: makes its folder, or reads an existing folder back to go on from it."""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cutlayer.data.own_bytes import own_bytes
from cutlayer.drawing import plots
from cutlayer.drawing.style import why_no_figures
from cutlayer.errors import JobError, RunError
from cutlayer.files import write_atomically
from cutlayer.job import Job, change_job, dump_job, load_job
from cutlayer.own_code import refresh
from cutlayer.record.checkpoint import RunState, states_of
from cutlayer.record.folder import CODE_FILE, DATA_FILE, JOB_FILE, ROSTER_FILE, STATE_FILE
from cutlayer.record.row_lines import FILE, line_of, read_rows
from cutlayer.record.rows import Row
from cutlayer.record.writing import writing
from cutlayer.train.parts import Parts, first_adapter, load_parts
from cutlayer.world.world import World


def saved_run(
    folder: Path,
    say: Callable[[str], object] = warnings.warn,
    rounds: int | None = None,
    load: Callable[[Job, Callable[[str], object]], Parts] = load_parts,
    devices: int | None = None,
) -> tuple[Job, Parts, RunState, list[Row]]:
    """What a run goes on from: its job, and the state and the rows of its finished rounds.

    say: told of states and rows that are damaged: an earlier state is taken, and the rows after
    it are dropped; a damaged row before it is missing from the record. rounds: of the whole run,
    where they are to be other than the job's; devices: of the fleet from now on, where there are to
    be more. The folder's job then has them. Raises as `simulate`.
    """
    if not (folder / JOB_FILE).is_file():
        raise RunError(f"--resume: {folder} holds no run: give the folder of a run")
    job = load_job(folder / JOB_FILE)
    _check_code(folder, job)
    job = _with_devices(job, devices)
    parts = load(job, say)
    if not (folder / STATE_FILE).exists():  # stopped before its first round was finished
        job = _with_rounds(folder, job, rounds, 0)
        elsewhere = (folder / ROSTER_FILE).exists()
        return job, parts, begin_run(folder, job, parts, elsewhere=elsewhere), []
    state = _latest_state(folder, job, parts, say).to(parts.model.compute)
    job = _with_rounds(folder, job, rounds, state.rounds)
    if devices is not None:
        with writing(folder):
            write_atomically(folder / JOB_FILE, dump_job(job).encode())
    found = read_rows(folder, say, job.devices.count)
    rows = [row for row in found if row.round < state.rounds]
    if len(rows) < state.rounds:
        say(
            f"{folder / FILE} has {len(rows)} of the {state.rounds} rounds that were trained: the "
            "others are missing from tables and pictures"
        )
    with writing(folder):  # a round recorded but not committed is run again
        write_atomically(folder / FILE, "".join(line_of(r) + "\n" for r in rows).encode())
    return job, parts, state, rows


@dataclass(frozen=True)
class Changes:
    """What may be other in a run that goes on; None: as before."""

    rounds: int | None = None
    devices: int | None = None


def changes_to_resume(settings: Sequence[str], grows: bool = False) -> Changes:
    """What `--set` asks of a run that goes on: rounds and, if its fleet `grows`, more devices.

    Raises JobError for any other setting, by its name.
    """
    changes = Changes()
    for setting in settings:
        name = setting.partition("=")[0].strip()
        job = load_job(None, [setting]) if name in ("training.rounds", "devices.count") else None
        if name == "training.rounds" and job:
            changes = replace(changes, rounds=job.training.rounds)
        elif name == "devices.count" and job and grows:
            changes = replace(changes, devices=job.devices.count)
        else:
            may = "training.rounds and devices.count" if grows else "training.rounds"
            raise JobError(
                f"--set: {name} cannot change in a run that goes on, only {may} can: "
                "begin a new run, from this one's adapter by model.adapter"
            )
    return changes


def _with_devices(job: Job, devices: int | None) -> Job:
    """The job with more devices (None: its own). Raises JobError.

    A device keeps its number. Which devices a round draws, and who has which part of the job's own
    data, is from now on as if the fleet had always been so large.
    """
    if devices is None:
        return job
    if devices < job.devices.count:
        raise JobError(
            f"devices.count: {devices} but the run began with {job.devices.count}, and a device "
            "keeps its number: give as many or more"
        )
    if devices > job.devices.count and job.privacy.unit == "sample":
        raise JobError(
            f"devices.count: {devices} but the run began with {job.devices.count}, and with "
            "privacy.unit 'sample' a sample that moves to a new device would be counted anew: "
            "begin a new run, from this one's adapter by model.adapter"
        )
    changed = change_job(job, [f"devices.count={devices}"])
    if changed.world is not None:
        World(changed.world, devices, changed.seed)  # traces must have as many devices
    return changed


def _with_rounds(folder: Path, job: Job, rounds: int | None, done: int) -> Job:
    """The job with other rounds (None: its own), as if it had had them from the beginning.

    Raises JobError.
    """
    training = job.training
    if rounds is None or rounds == training.rounds:
        return job
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


def _latest_state(folder: Path, job: Job, parts: Parts, say: Callable[[str], object]) -> RunState:
    """The last state that can be read and is one of this job's. Raises RunError without any."""
    faults: list[str] = []
    due = {name: tensor.shape for name, tensor in first_adapter(job, parts.model).items()}
    for state in states_of(folder, faults.append):
        shapes = [
            {n: t.shape for n, t in one.items()} for one in (state.adapter, *state.kept.values())
        ]
        if all(one == due for one in shapes) and state.rounds <= job.training.rounds:
            for fault in faults:
                say(f"{fault.removeprefix('--resume: ').partition(': start')[0]}: it is left out")
            return state
        faults.append(f"--resume: a state of round {state.rounds} is damaged (it is another job's)")
    raise RunError(f"{faults[0].partition(': start')[0]}: start the run again in a new folder")


def begin_run(folder: Path, job: Job, parts: Parts, *, elsewhere: bool = False) -> RunState:
    """Make a run folder: the job, what data were loaded, who holds what; the state to begin with.

    elsewhere: devices hold data of their own, of which nobody here knows who holds what, or how
    large it is. Where the job names code of one's own, the folder also gets the hash of each of its
    files. Raises JobError or RunError.
    """
    hashes = refresh(job.own_code)
    first = first_adapter(job, parts.model, parts.train.classes)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / JOB_FILE, dump_job(job).encode())
        write_atomically(folder / FILE, b"")
        if parts.train.report is not None:
            said = parts.train.report.record()
            if not elsewhere:
                said["own_bytes"] = own_bytes(parts.train, parts.preprocess.fit)
            text = json.dumps(said, indent=1, ensure_ascii=False)
            write_atomically(folder / DATA_FILE, (text + "\n").encode())
        if hashes:
            write_atomically(folder / CODE_FILE, json.dumps(hashes, indent=1).encode())
        (folder / "figures").mkdir(exist_ok=True)
        if not elsewhere and why_no_figures() is None:
            held = parts.counts
            plots.label_map(
                held.first(plots.MOST_DEVICES),
                parts.train.classes,
                folder / "figures" / "labels.png",
                held.devices,
                held.samples,
            )
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
