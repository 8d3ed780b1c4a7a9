"""From run folders to a report: reads them, computes anew what views need, writes the page."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cutlayer.drawing.style import FORMATS, Column
from cutlayer.errors import RunError
from cutlayer.files import write_atomically
from cutlayer.reports import figures, page
from cutlayer.reports.paper_tables import as_csv, as_latex
from cutlayer.reports.read_runs import Say, read_run, run_folders
from cutlayer.reports.recompute import again, load_for_views
from cutlayer.reports.views.runs import Line, Run, lines_of

MOST_DETAILED = 12


@dataclass(frozen=True)
class Report:
    """Where the page, the figures and the tables were written.

    page: the HTML file. figures, tables: the files besides, in the order in which they were
    written.
    left_out: a sentence for each run, or line of one, that is damaged.
    """

    page: Path
    figures: list[Path]
    tables: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def report(
    folders: str | Path | Sequence[str | Path],
    *,
    out: str | Path = "report.html",
    reference: str | Path | None = None,
    images: int = 6,
    figures_folder: str | Path | None = None,
    formats: Sequence[str] = FORMATS,
    column: Column | None = None,
    csv: str | Path | None = None,
    latex: str | Path | None = None,
    say: Say = lambda sentence: None,
) -> Report:
    """Write one page about the runs in `folders` that needs nothing but a browser.

    out: the page to write.
    folders: a run folder, a folder that holds run folders (a comparison, or several, down to three
    levels), or a list of such. reference: a run that the others are measured against. images: of
    the test set, on which kept patches are drawn; 0 for none. figures_folder: also get the figures
    there, in each of `formats` ("png", "svg", "pdf") and for the `column` of a paper. csv, latex:
    files that also get the table of all runs, as numbers and as a tabular of booktabs. say: hears
    what is being done. What cannot be computed anew here (the job's data may be elsewhere) is left
    out, and the page says why. A run that is damaged, or has no round yet, is left out where there
    are others. No code that a job names is run. Raises RunError where no run is left.
    """
    out = Path(out)
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise RunError(
            f"--formats: {', '.join(unknown) or 'none'} is no format: give some of "
            f"{', '.join(FORMATS)}"
        )
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
            drawn = figures.draw(lines, full[0], Path(figures_folder), formats, column)
        except OSError as error:
            raise _unwritable("--figures", Path(figures_folder), error) from None
        except ValueError:
            font = column.font if column else None
            raise RunError(
                f"--font: {font!r} is not installed: give a font of this machine, or leave it out"
            ) from None
    against = next((line for line in lines if base in line.runs), None)
    tables = []
    for option, path, table in (("--csv", csv, as_csv), ("--latex", latex, as_latex)):
        if path is not None:
            _write(Path(path), table(lines, against).encode(), option)
            tables.append(Path(path))
    return Report(out, drawn, tables, left_out)


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


def usual_reference(lines: Sequence[Line]) -> Run | None:
    """The sflora run of a comparison, as in `cutlayer compare`."""
    plain = [line for line in lines if line.job.method.name == "sflora"]
    return plain[0].runs[0] if len(plain) == 1 and len(lines) > 1 else None


def _detailed(lines: Sequence[Line]) -> list[Run]:
    """The first run of each line, of as many lines as a page has room for."""
    return [line.runs[0] for line in lines][:MOST_DETAILED]


def _write(path: Path, content: bytes, option: str = "--out") -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise _unwritable(option, path, error) from None


def _unwritable(option: str, path: Path, error: OSError) -> RunError:
    return RunError(f"{option}: cannot write {path} ({error.strerror or error}): give another")
