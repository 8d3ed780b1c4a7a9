"""Run folders read: the job, the record, and what devices and classes are called."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cutlayer.errors import JobError, RunError
from cutlayer.files import read_bounded
from cutlayer.job import Job
from cutlayer.job import read_job as read_job_file
from cutlayer.model.class_names import class_names
from cutlayer.planning.leakage.record import RUN_FILE, Leakage, read_leakage
from cutlayer.record.data_file import own_bytes_of
from cutlayer.record.find_runs import find_run_folders
from cutlayer.record.folder import ADAPTER_FOLDER, JOB_FILE, LABELS_FILE, device_folder
from cutlayer.record.row_lines import FILE, read_rows
from cutlayer.record.told_devices import read_told
from cutlayer.reports.views.runs import Run

Say = Callable[[str], None]
_MOST_PICTURE = 2**23
_PNG = b"\x89PNG"


def run_folders(folder: Path) -> list[Path]:
    """The folder itself if it is a run's, else the run folders in it, down to three levels, those
    of a comparison in its order.

    Raises RunError.
    """
    within = sorted(find_run_folders(folder))
    compared = {parent: list(_labels_of(parent)) for parent in {run.parent for run in within}}
    within.sort(key=lambda run: (run.parent, _place(run.name, compared[run.parent]), run.name))
    if not within:
        raise RunError(
            f"RUN: {folder} is no run folder, nor does it hold any: give a folder with {JOB_FILE} "
            f"and {FILE}, as cutlayer simulate writes it"
        )
    return within


def read_job(folder: Path) -> Job:
    """The job of a run, of which no code is run. Raises RunError."""
    try:
        return read_job_file(folder / JOB_FILE)
    except JobError as error:
        raise RunError(f"RUN: {folder / JOB_FILE} is no job this version reads: {error}") from None


def read_run(folder: Path, say: Say) -> Run:
    """The job and the record of a run; `say` is told of damaged lines. Raises RunError."""
    job = read_job(folder)
    rows = read_rows(folder, say, job.devices.count)
    if not rows:
        raise RunError(
            f"RUN: {folder} has no finished round yet: wait for the first, or leave it out"
        )
    return Run(
        folder,
        job,
        rows,
        classes=classes_of(folder),
        label=label_of(folder),
        names=names_of(folder, job.devices.count),
        own_bytes=own_bytes_of(folder),
        audit=_audit_of(folder, say),
        sheet=_sheet_of(folder),
    )


def _audit_of(folder: Path, say: Say) -> Leakage | None:
    """What `cutlayer audit` made of a run; None where it never did, and `say` is told of damage."""
    try:
        path = folder / RUN_FILE
        return read_leakage(path) if path.is_file() else None
    except RunError as error:
        say(str(error))
        return None


def _sheet_of(folder: Path) -> bytes:
    """The picture beside an audit; empty where there is none, or no picture."""
    try:
        content = read_bounded((folder / RUN_FILE).with_suffix(".png"), _MOST_PICTURE)
    except OSError:
        return b""
    return content if content.startswith(_PNG) else b""


def _place(name: str, names: Sequence[str]) -> int:
    """Where a name stands among `names`; after all of them if it does not."""
    return names.index(name) if name in names else len(names)


def label_of(folder: Path) -> str:
    """What the comparison that a run folder lies in calls it; empty where none does."""
    folder = folder.resolve()
    found = _labels_of(folder.parent).get(folder.name)
    return found if isinstance(found, str) else ""


def _labels_of(folder: Path) -> dict[str, Any]:
    """What a comparison's folder calls the run folders in it, in order; empty where it is none."""
    try:
        labels = json.loads((folder / LABELS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return labels if isinstance(labels, dict) else {}


def classes_of(folder: Path) -> tuple[str, ...]:
    """The names of a run's classes, as its adapter folder has them; none where it has none."""
    try:
        adapters = [folder / ADAPTER_FOLDER, folder / ADAPTER_FOLDER / device_folder(0)]
        return tuple(next(filter(None, map(class_names, adapters)), ()))
    except (OSError, ValueError, RecursionError):
        return ()


def names_of(folder: Path, devices: int) -> dict[int, str]:
    """What the devices of a network run are called, by number; none in a simulation."""
    try:
        return {number: one.name for number, one in read_told(folder, devices).items()}
    except RunError:  # views say so themselves
        return {}
