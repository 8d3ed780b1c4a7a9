"""Several methods on the same devices, data and seeds: one table and one set of pictures."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean

from cutlayer import methods
from cutlayer.drawing import plots
from cutlayer.drawing.curves import curve_of, draw_curves
from cutlayer.drawing.style import why_no_figures
from cutlayer.errors import JobError, RunError
from cutlayer.files import write_atomically
from cutlayer.job import Job, change_job
from cutlayer.model.families import describe
from cutlayer.record.folder import LABELS_FILE
from cutlayer.record.writing import new_folder, writing
from cutlayer.rounds.progress import Progress, watched
from cutlayer.rounds.result import Result
from cutlayer.settings.data import HELD_OUT
from cutlayer.simulation.comparison import Comparison, rows_of
from cutlayer.simulation.lines import Line
from cutlayer.simulation.protocols import Budgets, Protocols
from cutlayer.simulation.ranks import Ranks
from cutlayer.simulation.simulate import finished_run, simulate
from cutlayer.simulation.spread_runs import run_on_ranks
from cutlayer.simulation.workers import Run, run_in_processes
from cutlayer.train.check import check
from cutlayer.train.parts import Parts, load_parts

RunElsewhere = Callable[[Sequence[Run]], None]
"""Simulates each of some runs in some other process."""


@dataclass(frozen=True)
class Entry:
    """One line of a comparison: a label and the job it stands for."""

    label: str
    job: Job


def entries(job: Job, texts: Sequence[str]) -> list[Entry]:
    """The jobs of texts such as `tsflora tokens.keep=24 uplink.bits=4`: a name and settings.

    `label = name ...` gives a line a label of its own. A method that the job itself names keeps
    the job's settings of it. Raises JobError.
    """
    found = []
    for text in texts:
        if not text.strip():
            raise JobError(
                "--methods: a name is missing: separate names by single commas, as in "
                "'sflora, tsflora'"
            )
        label, name, *settings = _words(text)
        if name == job.method.name:
            entry = job
        else:
            methods.find_method(name)  # an unknown name is refused before anything runs
            entry = change_job(job, [f"method={name}"])
        entry = change_job(entry, [f"method.{setting}" for setting in settings])
        found.append(Entry(label, entry))
    _check_labels(found)
    return found


def _check_labels(found: Sequence[Entry]) -> None:
    """Raise JobError where two lines, or a line and another, would share a folder."""
    labels = [entry.label for entry in found]
    for label in labels:
        if labels.count(label) > 1:
            raise JobError(f"--methods: {label!r} is named twice: name each method once")
        if not _folder_name(label).strip("."):
            raise JobError(f"methods: {label!r} is no label: give each job a name, as in 'mine'")
    folders = [_folder_name(label) for label in labels]
    for label, folder in zip(labels, folders, strict=True):
        if folders.count(folder) > 1:
            raise JobError(
                f"methods: {label!r} would share a run folder with another line: give it another "
                "label"
            )


def _words(text: str) -> list[str]:
    """The label, the name and the settings of one method's text."""
    words = text.split()
    if len(words) > 2 and words[1] == "=":
        return [words[0], *words[2:]]
    return [" ".join(words), *words]


def compare(
    jobs: Job | Mapping[str, Job],
    *,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    out: str | Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
    target: float | None = None,
    budgets: Budgets | None = None,
    drop_out: float = 0.0,
) -> Comparison:
    """Run several jobs side by side: one table and one set of pictures.

    progress: hears what happens, run by run (None: nobody does).
    jobs: one job, of which each method of `methods` is run on the same devices, data and seed (see
    `entries`, as in ["sflora", "small = tsflora tokens.keep=24"]); or a job for each label, as in
    {"mine": job, "theirs": other}, without `methods`.
    seeds: run each once for each of them (none: once, with the seed of its job); tables then have
    mean and range, and the difference of accuracy from the first line's, seed by seed, with its
    95 % interval by Student's t.
    out: a folder that gets one run folder for each run, comparison.md and figures (None: a new one
    below runs/). workers: runs at a time, each in a process of its own where there are more than
    one; the results are the same. ranks: the processes of `torchrun` that share the runs instead,
    in rank 0 of them.
    target: the accuracy, as a fraction, whose cost is told (None: the highest that every run
    reached). budgets: what may be spent, as in {"megabytes": 5, "seconds": 60, "joules": 100}
    (None: of each the least that a run spent in all). drop_out: run every line with devices
    again with this chance of drop-outs (devices.drop_out). Raises JobError, DataError, ModelError
    or RunError.
    """
    progress = watched(progress)
    if workers < 1:
        raise JobError(f"--workers: {workers} runs nothing: take 1 or more")
    if workers > 1 and ranks is not None:
        raise JobError(f"--workers: {workers} under torchrun, whose ranks share the runs: leave it")
    protocols = Protocols(target, budgets or {})
    found = _entries_of(jobs, methods)
    if {"seconds", "joules"} & protocols.budgets.keys() and not any(e.job.world for e in found):
        raise JobError(
            "--budget: seconds and joules are those of a world, and the job has none: add a world "
            "section (--set world={} takes its defaults), or give megabytes alone"
        )
    if drop_out:
        found = _with_drop_outs(found, drop_out)
    if out is not None and (Path(out) / "comparison.md").exists():
        raise RunError(f"--out: {out} already holds a comparison: give another folder")
    _check_seeds(seeds)
    for entry in found:  # all of them, before anything is loaded
        check(entry.job, describe(entry.job.model))
    found = _on_the_same_data(found)
    folder = Path(out) if out is not None else new_folder("compare")
    elsewhere: RunElsewhere | None = None
    if ranks is not None:
        elsewhere = partial(run_on_ranks, ranks=ranks, say=progress.say)
    elif workers > 1:
        elsewhere = partial(run_in_processes, workers=workers, say=progress.say)
    lines, shared = _run_all(found, seeds, folder, elsewhere, progress)
    protocols = protocols.settled([result for line in lines for result in line.results])
    comparison = Comparison(folder, lines, rows_of(lines, protocols), protocols)
    with writing(folder):
        (folder / "figures").mkdir(exist_ok=True)
        if why_no_figures() is None:
            _draw(folder / "figures", lines, shared)
        write_atomically(folder / "comparison.md", comparison.markdown().encode())
    return comparison


def _with_drop_outs(found: list[Entry], chance: float) -> list[Entry]:
    """The jobs, each but those that train in one place again with drop-outs. Raises JobError."""
    both = []
    for entry in found:
        if entry.job.devices.drop_out:
            raise JobError(
                f"--drop-out: {chance:g} but the job has devices.drop_out "
                f"{entry.job.devices.drop_out:g} already: leave one of them out"
            )
        both.append(entry)
        if not entry.job.method.pooled:
            dropping = change_job(entry.job, [f"devices.drop_out={chance}"])
            both.append(Entry(f"{entry.label} drop-out", dropping))
    _check_labels(both)
    return both


def _on_the_same_data(found: list[Entry]) -> list[Entry]:
    """The jobs on the same data: samples that one job calibrates on are held out of all."""
    wanted = {entry.job.data_in_use.calibration for entry in found} - {None}
    if HELD_OUT not in wanted:
        return found
    held_out = [f"data.calibration={HELD_OUT}"]
    return [
        entry if entry.job.data.calibration else Entry(entry.label, change_job(entry.job, held_out))
        for entry in found
    ]


def _entries_of(jobs: Job | Mapping[str, Job], methods: Sequence[str]) -> list[Entry]:
    """What `compare` was given, as lines. Raises JobError."""
    if isinstance(jobs, Job):
        if not methods or isinstance(methods, str):
            raise JobError(
                f"methods: {methods!r} names no methods to compare: give a list, as in "
                "['sflora', 'tsflora tokens.keep=24'], or a dict of jobs by label"
            )
        return entries(jobs, methods)
    if methods or not jobs:
        raise JobError(
            "methods: each job of a dict has its method: give a dict of jobs by label alone, or "
            "one job with methods"
        )
    found = [Entry(label, job) for label, job in jobs.items()]
    _check_labels(found)
    return found


def _check_seeds(seeds: Sequence[int]) -> None:
    """Raise JobError for a seed that is no whole number of 0 or more, or that is named twice."""
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise JobError(f"--seeds: {seed!r} is no seed: give whole numbers from 0, as in 0,1,2")
        if list(seeds).count(seed) > 1:
            raise JobError(f"--seeds: {seed} is named twice: name each seed once")


def _run_all(
    found: Sequence[Entry],
    seeds: Sequence[int],
    folder: Path,
    elsewhere: RunElsewhere | None,
    progress: Progress,
) -> tuple[list[Line], Parts | None]:
    """Run the jobs one after another; load model and data anew only where a job has others.

    elsewhere: runs them in other processes first, and what they left is read here. Also returns
    model and data where all have the same.
    """
    # Seed by seed, since what is loaded goes by it.
    chosen: list[int | None] = [*seeds] or [None]
    turns = [(entry, seed) for seed in chosen for entry in found]
    jobs = [e.job if seed is None else change_job(e.job, [f"seed={seed}"]) for e, seed in turns]
    folders = [
        _folder_name(entry.label) + ("" if seed is None else f"-seed-{seed}")
        for entry, seed in turns
    ]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        labels = {name: e.label for name, (e, _) in zip(folders, turns, strict=True)}
        text = json.dumps(labels, indent=1, ensure_ascii=False) + "\n"
        write_atomically(folder / LABELS_FILE, text.encode())
    if elsewhere is not None:
        elsewhere([Run(job, folder / name) for job, name in zip(jobs, folders, strict=True)])
    results: dict[str, list[Result]] = {entry.label: [] for entry in found}
    wanted = [(job.model, job.data, job.devices.count, job.seed) for job in jobs]
    parts: Parts | None = None
    for place, (entry, seed) in enumerate(turns):
        if parts is None or wanted[place] != wanted[place - 1]:
            parts = load_parts(jobs[place], progress.say)
        out = folder / folders[place]
        if elsewhere is not None:
            results[entry.label].append(finished_run(out, parts))
            continue
        if seed is not None:
            progress.say(f"{entry.label}, seed {seed}")
        results[entry.label].append(simulate(jobs[place], out=out, progress=progress, parts=parts))
    lines = [Line(label, runs) for label, runs in results.items()]
    return lines, parts if all(one == wanted[0] for one in wanted) else None


def _folder_name(label: str) -> str:
    return "-".join(label.replace("=", "").replace(":", ".").replace("/", ".").split())


def _draw(folder: Path, lines: Sequence[Line], shared: Parts | None) -> None:
    """Draw the figures of a comparison, and the map of labels where all runs have the same data."""
    if shared is not None:
        held = shared.counts
        shown = held.first(plots.MOST_DEVICES)
        place = folder / "labels.png"
        plots.label_map(shown, shared.train.classes, place, held.devices, held.samples)
    draw_curves({line.label: [curve_of(r.rows) for r in line.results] for line in lines}, folder)
    traffic = [
        plots.MethodBytes(
            line.label,
            mean(result.up_bytes for result in line.results),
            mean(result.down_bytes for result in line.results),
        )
        for line in lines
    ]
    plots.bytes_by_method(traffic, folder / "bytes-by-method.png")
