"""From run folders to a report: reads them, computes anew what views need, writes the page."""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cutlayer.errors import CutlayerError, JobError, RunError
from cutlayer.files import write_atomically
from cutlayer.job import Job
from cutlayer.job import read_job as read_job_file
from cutlayer.model.class_names import class_names
from cutlayer.record.data_file import own_bytes_of
from cutlayer.record.folder import (
    ADAPTER_FOLDER,
    JOB_FILE,
    LABELS_FILE,
    ROSTER_FILE,
    STATE_FILE,
    device_folder,
)
from cutlayer.record.rows import FILE, MOST_MEASURED, read_rows
from cutlayer.record.told_devices import read_told
from cutlayer.reports import figures, page
from cutlayer.reports.views.runs import Holdings, Line, Run, lines_of

MOST_DETAILED = 12

Say = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """Where the page and the figures were written.

    left_out: a sentence for each run, or line of one, that is damaged.
    """

    page: Path
    figures: list[Path]
    left_out: list[str] = field(default_factory=list)


def report(
    folders: str | Path | Sequence[str | Path],
    *,
    out: str | Path = "report.html",
    reference: str | Path | None = None,
    images: int = 6,
    figures_folder: str | Path | None = None,
    say: Say = lambda sentence: None,
) -> Report:
    """Write one page about the runs in `folders` that needs nothing but a browser.

    folders: a run folder, a folder that holds run folders (a comparison), or several. reference: a
    run that the others are measured against. images: of the test set, on which kept patches are
    drawn; 0 for none. figures_folder: also get the figures there as PNG, SVG and PDF. say: hears
    what is being done. What cannot be computed anew here (the job's data may be elsewhere) is left
    out, and the page says why. A run that is damaged, or has no round yet, costs itself where there
    are others. No code that a job names is run. Raises RunError where no run is left.
    """
    out = Path(out)
    several = [folders] if isinstance(folders, str | Path) else folders
    found = [folder for given in several for folder in run_folders(Path(given))]
    extra = run_folders(Path(reference)) if reference is not None else []
    if len(extra) > 1:
        raise RunError(f"--reference: {reference} holds {len(extra)} runs: name one of them")
    unique = list({folder.resolve(): folder for folder in found + extra}.values())
    left_out: list[str] = []
    runs = _readable(unique, left_out)
    lines = lines_of(runs)
    chosen = next((run for run in runs if extra and run.folder.samefile(extra[0])), None)
    base = chosen or usual_reference(lines)
    detailed = _detailed(lines)
    read = functools.lru_cache(maxsize=1)(load_for_views)
    full = []
    for number, run in enumerate(detailed):
        say(f"{run.name}, {number + 1} of {len(detailed)}")
        full.append(again(run, images, len(detailed), read))
    html = page.render(full, lines, base)
    _write(out, html.encode())
    drawn = []
    if figures_folder is not None:
        say("figures")
        try:
            drawn = figures.draw(lines, full[0], Path(figures_folder))
        except OSError as error:
            raise _unwritable("--figures", Path(figures_folder), error) from None
    return Report(out, drawn, left_out)


def _readable(folders: Sequence[Path], left_out: list[str]) -> list[Run]:
    """The runs that can be read; why others cannot is added to `left_out`. Raises RunError."""
    runs, faults = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder, left_out.append))
        except RunError as error:
            faults.append(error)
    if not runs:
        raise faults[0]
    left_out += [str(error) for error in faults]
    return runs


def run_folders(folder: Path) -> list[Path]:
    """The folder itself if it is a run's, else the run folders in it. Raises RunError."""
    if (folder / JOB_FILE).is_file():
        return [folder]
    within = sorted(path.parent for path in folder.glob(f"*/{JOB_FILE}"))
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
        labels = json.loads((folder.parent / LABELS_FILE).read_text("utf-8"))
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


def again(run: Run, images: int, share: int, read: Callable[[str], Any] | None = None) -> Run:
    """The run with what its job gives again; what fails is named in `missing`.

    share: how many runs share a page's room. read: loads the data and the model of a job.
    """
    from cutlayer.model.families import describe
    from cutlayer.reports import replay

    missing: dict[str, str] = {}

    def attempt(view: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except CutlayerError as error:
            missing[view] = str(error)
        # What a record says may not fit its job: then the view is not there, and the rest is.
        except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
            missing[view] = f"the record does not fit the job ({type(error).__name__}: {error})"
        return None

    job, rows = run.job, run.rows
    spec = attempt("gantt", lambda: describe(job.model))
    timed = job.world is not None and any(row.virtual_s is not None for row in rows)
    if job.world is None:
        missing["gantt"] = missing["fleet"] = (
            "the job has no world (add --set world={} to one), so there is no clock and no radio"
        )
    elif not timed:
        missing["gantt"] = missing["fleet"] = "the run took place on a real network, not in a world"
    if job.method.pooled:
        missing["fleet"] = f"{job.method.name} trains on one party that holds all data"
    rounds = places = None
    if timed and spec is not None:
        rounds = attempt("gantt", lambda: replay.timelines(job, spec, rows, share))
    if timed and not job.method.pooled:
        places = attempt("fleet", lambda: replay.places(job, rows, share))
    parts = attempt("labels", lambda: (read or load_for_views)(_loads(job)))
    holdings = patches = None
    if parts is not None:
        holdings = attempt("labels", lambda: _holdings(run, parts))
        patches = attempt("patches", lambda: _patches(run, parts, images))
    else:
        missing["patches"] = missing["labels"]
    whole = spec.tokens_at(job.cut) - spec.prefix if spec is not None else 0
    return replace(
        run,
        whole=whole,
        holdings=holdings,
        rounds=rounds or (),
        places=places,
        patches=patches,
        missing=missing,
    )


def _holdings(run: Run, parts: Any) -> Holdings:
    """Who holds which labels: by the job, or as the devices of a network told.

    Raises CutlayerError where none of them did.
    """
    classes = parts.train.classes
    if not (run.folder / ROSTER_FILE).is_file():
        held = parts.counts
        shown = held.first(MOST_MEASURED)
        return Holdings(classes, shown, devices=held.devices, samples=held.samples)
    told = read_told(run.folder, run.job.devices.count, len(classes))
    counts = np.zeros((run.job.devices.count, len(classes)), dtype=np.int64)
    known = {number: one.labels for number, one in told.items() if one.labels is not None}
    if not known:
        raise CutlayerError(
            "the devices keep data of their own, and tell of its labels only where the server "
            "trains on generated images (add a generated section to the job)"
        )
    for number, labels in known.items():
        counts[number] = labels
    return Holdings(classes, counts, tuple(sorted(known)))


def names_of(folder: Path, devices: int) -> dict[int, str]:
    """What the devices of a network run are called, by number; none in a simulation."""
    try:
        return {number: one.name for number, one in read_told(folder, devices).items()}
    except RunError:  # views say so themselves
        return {}


def _loads(job: Job) -> str:
    """What of a job says which data and model are loaded, to load them once for many runs."""
    plain = job.model_dump(mode="json", exclude={"world", "training", "method"})
    return Job.model_validate({**plain, "method": {"train": job.method.train}}).model_dump_json()


def load_for_views(text: str) -> Any:
    """The data and the model of a job's JSON: what `again` is given to load them by."""
    from cutlayer.train.parts import load_parts

    return load_parts(Job.model_validate_json(text))


def _patches(run: Run, parts: Any, images: int) -> Any:
    from cutlayer.record.checkpoint import load_state
    from cutlayer.reports import replay

    if images < 1:
        raise CutlayerError("no images were asked for (--images 0)")
    if ":" in run.job.method.tokens.score:
        raise CutlayerError(
            f"method.tokens.score is code ({run.job.method.tokens.score}), which is not run to "
            "look at a run"
        )
    if not run.job.method.split:
        raise CutlayerError(f"{run.job.method.name} does not cut the model")
    decisions = [one for row in run.rows for one in row.decisions.values() if one.cut]
    if not decisions:
        raise CutlayerError("the model is cut before its first block: no attention ranks patches")
    if not (run.folder / STATE_FILE).is_file():
        raise CutlayerError(f"the folder has no {STATE_FILE} with the trained adapter")
    state = load_state(run.folder / STATE_FILE)
    adapter = next(iter(state.kept.values()), state.adapter)
    adapter = {name: tensor.to(parts.model.compute) for name, tensor in adapter.items()}
    cut = statistics.mode(one.cut for one in decisions)
    keep = statistics.mode(one.tokens for one in decisions)
    return replay.patches(run.job, parts, adapter, cut, images, keep)


def usual_reference(lines: Sequence[Line]) -> Run | None:
    """The sflora run of a comparison, as in `cutlayer compare`."""
    plain = [line for line in lines if line.job.method.name == "sflora"]
    return plain[0].runs[0] if len(plain) == 1 and len(lines) > 1 else None


def _detailed(lines: Sequence[Line]) -> list[Run]:
    """The first run of each line, of as many lines as a page has room for."""
    return [line.runs[0] for line in lines][:MOST_DETAILED]


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise _unwritable("--out", path, error) from None


def _unwritable(option: str, path: Path, error: OSError) -> RunError:
    return RunError(f"{option}: cannot write {path} ({error.strerror or error}): give another")
