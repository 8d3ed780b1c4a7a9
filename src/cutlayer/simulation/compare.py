"""Several methods on the same devices, data and seed: one table and one set of pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from cutlayer import methods
from cutlayer.drawing import plots, tables
from cutlayer.drawing.curves import curve_of, draw_curves
from cutlayer.drawing.style import why_no_figures
from cutlayer.drawing.tables import Column
from cutlayer.errors import JobError, RunError
from cutlayer.files import write_atomically
from cutlayer.job import Job, change_job
from cutlayer.model.families import describe
from cutlayer.planning.known.method_costs import round_costs
from cutlayer.record.writing import new_folder, writing
from cutlayer.rounds.progress import Progress
from cutlayer.rounds.result import Result
from cutlayer.simulation.simulate import simulate
from cutlayer.train.check import check
from cutlayer.train.parts import Parts, load_parts

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    Column("method", "method", "text"),
    Column("accuracy", "accuracy", "percent"),
    Column("through_cut", "through cut", "percent"),
    Column("up", "up a round", "bytes"),
    Column("down", "down a round", "bytes"),
    Column("total", "total", "bytes"),
    Column("ratio", "saving", "ratio"),
    Column("memory", "device memory", "bytes"),
    Column("device_flops", "device a round", "flops"),
    Column("server_flops", "server a round", "flops"),
)
WORLD_COLUMNS = (
    Column("method", "method", "text"),
    Column("virtual_s", "a round", "seconds"),
    Column("total_s", "in all", "seconds"),
    Column("to_target_s", "to target", "seconds"),
    Column("joules", "devices a round J"),
    Column("ste", "STE 1/s"),
    Column("dropped", "dropped", "count"),
)
WORLD_NOTES = """\
to target: until {:.1f} %, the highest accuracy that every method reached, was first measured.
STE: semantic transmission efficiency, mean over rounds, of methods whose tokens were ranked or
all sent. dropped: turns of devices that were left out, came too late or were lost.
"""
NOTES = """\
accuracy: of the exported adapter in the unsplit model, on the held-out set, after the last round.
through cut: of device and server together, with the method's tokens and bits.
up, down: bytes of the frames of all devices, mean over rounds; total: both, over the whole run.
saving: bytes of sflora at 32 bits over this method's, both measured in this comparison.
device memory, FLOPs: from the cost model; FLOPs of a mean device and of the server in a mean round.
"""


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
            raise JobError(f"--methods: {label!r} stands there twice: name each method once")
        if not _folder_name(label).strip("."):
            raise JobError(f"methods: {label!r} is no label: give each job a name, as in 'mine'")
    folders = [_folder_name(label) for label in labels]
    for label, folder in zip(labels, folders, strict=True):
        if folders.count(folder) > 1:
            raise JobError(f"methods: the folder of {label!r} is another's too: call it otherwise")


def _words(text: str) -> list[str]:
    """The label, the name and the settings of one method's text."""
    words = text.split()
    if len(words) > 2 and words[1] == "=":
        return [words[0], *words[2:]]
    return [" ".join(words), *words]


@dataclass(frozen=True)
class Comparison:
    """Finished runs side by side."""

    folder: Path
    labels: list[str]
    results: list[Result]
    rows: list[dict[str, Any]]

    def tables(self) -> list["Table"]:
        """The tables for a terminal of 80 columns; comparison.md has a column more."""
        shown = [tables.render(self.rows, [c for c in COLUMNS if c.key != "through_cut"])]
        if any(row["virtual_s"] is not None for row in self.rows):
            shown.append(tables.render(self.rows, WORLD_COLUMNS, "In the job's world"))
        return shown

    def where(self) -> list[str]:
        """Where everything lies, a line each."""
        lines = [f"table    {self.folder / 'comparison.md'}"]
        lines += [f"figure   {path}" for path in sorted((self.folder / "figures").iterdir())]
        lines += [
            f"adapter  {result.adapter_folder}  ({label})"
            for label, result in zip(self.labels, self.results, strict=True)
        ]
        return [*lines, f"see it   cutlayer report {self.folder}"]


def compare(
    jobs: Job | Mapping[str, Job],
    *,
    methods: Sequence[str] = (),
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Run several jobs side by side: one table and one set of pictures.

    jobs: one job, of which each method of `methods` is run on the same devices, data and seed (see
    `entries`, as in ["sflora", "small = tsflora tokens.keep=24"]); or a job for each label, as in
    {"mine": job, "theirs": other}, without `methods`.
    out: a folder that gets one run folder for each, comparison.md and figures (None: a new one
    below runs/). Raises JobError, DataError, ModelError or RunError.
    """
    found = _entries_of(jobs, methods)
    if out is not None and (Path(out) / "comparison.md").exists():
        raise RunError(f"--out: {out} already holds a comparison: give another folder")
    for entry in found:  # all of them, before anything is loaded
        check(entry.job, describe(entry.job.model))
    folder = Path(out) if out is not None else new_folder("compare")
    results, shared = _run_all(found, folder, progress)
    rows = _rows(found, results)
    with writing(folder):
        (folder / "figures").mkdir(exist_ok=True)
        if why_no_figures() is None:
            _draw(folder / "figures", found, results, shared)
        text = f"# Comparison\n\n{tables.markdown(rows, COLUMNS)}\n{NOTES}"
        if any(entry.job.world is not None for entry in found):
            text += f"\n## In the job's world\n\n{tables.markdown(rows, WORLD_COLUMNS)}\n"
            text += WORLD_NOTES.format(100 * _target(results))
        write_atomically(folder / "comparison.md", text.encode())
    return Comparison(folder, [entry.label for entry in found], results, rows)


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


def _run_all(
    found: Sequence[Entry], folder: Path, progress: Progress | None
) -> tuple[list[Result], Parts | None]:
    """Run one after another; model and data are loaded anew only where the next has others.

    Also returns model and data where all have the same.
    """
    results: list[Result] = []
    wanted = [(e.job.model, e.job.data, e.job.devices.count, e.job.seed) for e in found]
    parts: Parts | None = None
    for place, entry in enumerate(found):
        if parts is None or wanted[place] != wanted[place - 1]:
            parts = load_parts(entry.job, progress.say if progress else None)
        run_folder = folder / _folder_name(entry.label)
        results.append(simulate(entry.job, out=run_folder, progress=progress, parts=parts))
    return results, parts if all(one == wanted[0] for one in wanted) else None


def _folder_name(label: str) -> str:
    return "-".join(label.replace("=", "").replace(":", ".").replace("/", ".").split())


def _rows(found: Sequence[Entry], results: Sequence[Result]) -> list[dict[str, Any]]:
    totals = {
        entry.label: r.up_bytes + r.down_bytes for entry, r in zip(found, results, strict=True)
    }
    reference = next(
        (totals[e.label] for e in found if e.job.method == methods.find_method("sflora")), 0
    )
    rows, target = [], _target(results)
    for entry, result in zip(found, results, strict=True):
        rounds, total = len(result.rows), totals[entry.label]
        costs = round_costs(entry.job, describe(entry.job.model), result.rows)
        rows.append(
            {
                "method": entry.label,
                "accuracy": result.accuracy,
                "through_cut": result.rows[-1].accuracy_through_cut,
                "up": result.up_bytes / rounds,
                "down": result.down_bytes / rounds,
                "total": total,
                "ratio": reference / total if reference and total else None,
                "memory": costs.device_memory_bytes,
                "device_flops": costs.device_flops,
                "server_flops": costs.server_flops,
                **_in_world(result, target),
            }
        )
    return rows


def _in_world(result: Result, target: float) -> dict[str, Any]:
    """Virtual seconds and joules of a run; None where the job has no world."""
    seconds = [row.virtual_s for row in result.rows if row.virtual_s is not None]
    if not seconds:
        return dict.fromkeys(column.key for column in WORLD_COLUMNS if column.key != "method")
    efficiency = [row.ste for row in result.rows if row.ste is not None]
    return {
        "virtual_s": mean(seconds),
        "total_s": sum(seconds),
        "to_target_s": curve_of(result.rows).amount_at(target, "seconds"),
        "joules": mean(sum(row.joules.values()) for row in result.rows),
        "ste": mean(efficiency) if efficiency else None,
        "dropped": sum(len(r.left_out) + len(r.late) + len(r.lost) for r in result.rows),
    }


def _target(results: Sequence[Result]) -> float:
    """The highest accuracy that every run reached at some round."""
    return min(max(curve_of(result.rows).accuracy) for result in results)


def _draw(
    folder: Path, found: Sequence[Entry], results: Sequence[Result], shared: Parts | None
) -> None:
    """The figures of a comparison; who holds what where all runs share it."""
    if shared is not None:
        plots.label_map(shared.counts, shared.train.classes, folder / "labels.png")
    draw_curves({e.label: [curve_of(r.rows)] for e, r in zip(found, results, strict=True)}, folder)
    traffic = [
        plots.MethodBytes(entry.label, result.up_bytes, result.down_bytes)
        for entry, result in zip(found, results, strict=True)
    ]
    plots.bytes_by_method(traffic, folder / "bytes-by-method.png")
