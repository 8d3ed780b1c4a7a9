"""Run folders read: the job, the record, and what devices and classes are called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cutlayer.errors import JobError, RunError
from cutlayer.job import Job
from cutlayer.job import read_job as read_job_file
from cutlayer.model.class_names import class_names
from cutlayer.record.data_file import own_bytes_of
from cutlayer.record.find_runs import find_run_folders
from cutlayer.record.folder import ADAPTER_FOLDER, JOB_FILE, LABELS_FILE, device_folder
from cutlayer.record.row_lines import FILE, read_rows
from cutlayer.record.told_devices import read_told
from cutlayer.reports.views.runs import Run

Say = Callable[[str], None]


def run_folders(folder: Path) -> list[Path]:
    """The folder itself if it is a run's, else the run folders in it, down to three levels.

    Raises RunError.
    """
    within = sorted(find_run_folders(folder))
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
    )


def label_of(folder: Path) -> str:
    """What the comparison that a run folder lies in calls it; empty where none does."""
    folder = folder.resolve()
    try:
        labels = json.loads((folder.parent / LABELS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    found = labels.get(folder.name) if isinstance(labels, dict) else None
    return found if isinstance(found, str) else ""


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
