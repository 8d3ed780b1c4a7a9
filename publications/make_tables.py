"""The tables of a paper, trained here, beside the paper's own figures.

    python publications/make_tables.py tsflora --runs DIR
    python publications/make_tables.py tsflora --list

PAPER is a folder beside this file. Its job.yaml is the paper's setting; its table.yaml has the
table's columns (settings on top of the job: data and how they are divided), its lines (methods, as
`cutlayer compare --methods` takes them), the figures that the paper states, and which lines are
held against which. Every cell is one run of `cutlayer simulate`; --list prints the command of each,
of which the run stands where --runs looks for it. Finished runs below DIR are kept, unfinished ones
go on; one of another setting is refused.

With --rates the learning rate of each line and column is the one of these that does best on samples
that devices hold out, with a seed that the table does not use; without, the job's.

As they are, the jobs take their model and data from the Hugging Face hub and are as large as the
paper's. --model, --data and --set put others in their place and make them smaller; what was
changed stands in the table's text. --write writes PAPER's results.md.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from cutlayer.drawing import tables
from cutlayer.errors import AllocationError, CutlayerError, RunError
from cutlayer.job import Job, change_job, load_job
from cutlayer.plain_yaml import parse_yaml
from cutlayer.record.folder import ADAPTER_FOLDER, JOB_FILE, STATE_FILE
from cutlayer.record.row_lines import read_rows
from cutlayer.record.rows import Row
from cutlayer.rounds.progress import Silent
from cutlayer.simulation.simulate import resume, simulate

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
TUNING_SEED = 100
"""The seed with which learning rates are chosen, and which no table uses."""
HELD_OUT = 0.1
"""The share of their samples that devices hold out where learning rates are chosen."""
UNREAD = 10
"""Test samples of a run that tunes: none are looked at, and a job has some."""
sys.path[:0] = [str(HERE), str(HERE.parent / "benchmarks")]  # the latter has environment.py

from differences import differences  # noqa: E402
from environment import describe  # noqa: E402
from fair_lines import held_out  # noqa: E402

Runs = dict[tuple[str, str], dict[int, list[Row]]]
"""The rows of the runs of a line and column, by seed."""
Rates = dict[tuple[str, str], float]
"""The learning rate that was chosen for a line and column."""


@dataclass(frozen=True)
class Table:
    """What table.yaml says. lines: a method's text by label. columns: settings by name.

    published: accuracies in percent, by column and line. compare: pairs of lines, the first held
    against the second. notes: what the paper leaves open, and what stands here in its place.
    """

    name: str
    title: str
    paper: str
    published_with: str
    through_cut: bool
    lines: dict[str, str]
    columns: dict[str, dict[str, Any]]
    published: dict[str, dict[str, float]]
    compare: list[list[str]]
    notes: list[str]


@dataclass(frozen=True)
class Cell:
    """One run: a line of a column, with a seed. rate: the learning rate, where it is tuned."""

    line: str
    column: str
    seed: int
    settings: tuple[str, ...]
    rate: float | None = None

    def folder(self, runs: Path) -> Path:
        """Its run folder."""
        name = f"{self.column}-{self.line}-{self.seed}"
        if self.seed == TUNING_SEED and self.rate is not None:
            name += f"-{self.rate:g}"
        return runs / name.replace(" ", "_").replace(",", "")


def main() -> None:
    """Train what is not there yet, and print or write the table."""
    options = parse()
    try:
        table = read_table(options.paper)
        runs = options.runs or Path("runs", table.name)
        trials = list(tried(table, options))
        if not options.list and options.runs is None:
            raise SystemExit("--runs is missing: name a folder for the runs")
        trains = not (options.list or options.only_report)
        failed = run_all(table, trials, runs) if trains else {}
        rates = best_rates(table, trials, runs)
        cells = list(wanted(table, options, rates))
        if options.list:
            for cell in (*trials, *cells):
                print(command(table, cell, runs))
            return
        failed |= run_all(table, cells, runs) if trains else {}
        text = report(table, cells, options, failed)
    except CutlayerError as error:
        raise SystemExit(str(error)) from None
    print(text)
    if options.write:
        (HERE / table.name / "results.md").write_text(text)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    papers = sorted(path.parent.name for path in HERE.glob("*/table.yaml"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paper", choices=papers)
    parser.add_argument("--runs", type=Path, help="folder of the runs")
    parser.add_argument("--model", help="a checkpoint in place of the paper's model")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="NAME=FOLDER",
        help="folders with train.parquet and test.parquet, in place of data of the hub",
    )  # fmt: skip
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="settings on top of every job"
    )
    parser.add_argument("--lines", nargs="+", help="some of the lines; all if it is left out")
    parser.add_argument("--columns", nargs="+", help="some of the columns")
    parser.add_argument("--seeds", type=int, nargs="+", default=[*SEEDS])
    parser.add_argument("--rates", type=float, nargs="+", default=[], help="learning rates to try")
    parser.add_argument("--list", action="store_true", help="print the commands and train nothing")
    parser.add_argument("--only-report", action="store_true", help="train nothing")
    parser.add_argument("--write", action="store_true", help="write results.md")
    return parser.parse_args(words)


def read_table(name: str) -> Table:
    """A paper's table. Raises CutlayerError."""
    path = HERE / name / "table.yaml"
    return Table(name=name, **parse_yaml(path.read_text()))


def tried(table: Table, options: argparse.Namespace) -> Iterator[Cell]:
    """The runs by which the learning rate of each line and column is chosen."""
    for column, line in asked(table, options):
        for rate in options.rates:
            settings = settings_of(table, line, column, TUNING_SEED, options, rate)
            settings.append(f"data.test_samples={UNREAD}")
            yield Cell(line, column, TUNING_SEED, tuple(settings), rate)


def best_rates(table: Table, trials: Sequence[Cell], runs: Path) -> Rates:
    """The rate with the highest accuracy on held-out samples, of lines whose trials are all there
    or could not be made.
    """
    found: dict[tuple[str, str], dict[float, float]] = {}
    for cell in trials:
        if cell.rate is not None and is_finished(table, cell, runs):
            accuracy = held_out(read_rows(cell.folder(runs))[-1])
            found.setdefault((cell.line, cell.column), {})[cell.rate] = accuracy
    return {key: max(rates, key=rates.__getitem__) for key, rates in found.items()}


def wanted(table: Table, options: argparse.Namespace, rates: Rates) -> Iterator[Cell]:
    """The cells that were asked for, seed by seed; where rates are tuned, of lines with a rate."""
    for seed in options.seeds:
        for column, line in asked(table, options):
            rate = rates.get((line, column))
            if options.rates and rate is None:
                continue
            settings = settings_of(table, line, column, seed, options, rate)
            yield Cell(line, column, seed, tuple(settings), rate)


def asked(table: Table, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The columns and lines that were asked for. Raises SystemExit for what is in no table."""
    _check_names("--lines", options.lines, table.lines)
    _check_names("--columns", options.columns, table.columns)
    there = {data_of(table, column): column for column in table.columns}
    _check_names("--data", [one.partition("=")[0] for one in options.data], there)
    for column in options.columns or table.columns:
        for line in options.lines or table.lines:
            yield column, line


def _check_names(option: str, given: Sequence[str] | None, there: dict[str, Any]) -> None:
    for name in given or ():
        if name not in there:
            raise SystemExit(f"{option}: {name!r} is not in the table: take of {', '.join(there)}")


def settings_of(
    table: Table,
    line: str,
    column: str,
    seed: int,
    options: argparse.Namespace,
    rate: float | None,
) -> list[str]:
    """What a cell sets on top of the paper's job, as `--set` takes it. rate: None is the job's."""
    folders = dict(one.split("=", 1) for one in options.data)
    on_top = dict(table.columns[column])
    if folder := folders.get(data_of(table, column)):
        on_top |= {"data.source": "parquet", "data.path": folder, "data.label_column": "label"}
    if options.model:
        on_top["model.path"] = options.model
    name, *settings = table.lines[line].split()
    method = [f"method={name}", *(f"method.{setting}" for setting in settings)]
    values = [f"{field}={value}" for field, value in on_top.items()]
    tuned = []
    if rate is not None:
        tuned = [f"data.partition.held_out={HELD_OUT}", f"training.lr={rate}"]
    return [*values, *method, *options.set, *tuned, f"seed={seed}"]


def data_of(table: Table, column: str) -> str:
    """The name of a column's data, which is the job's where the column names none."""
    named = table.columns[column].get("data.path")
    return str(named or load_job(HERE / table.name / "job.yaml").data.path)


def job_of(table: Table, cell: Cell) -> Job:
    """The job of a cell. Raises JobError."""
    return change_job(load_job(HERE / table.name / "job.yaml"), cell.settings)


def command(table: Table, cell: Cell, runs: Path) -> str:
    """The command that trains a cell, where `--runs` looks for it."""
    words = ["cutlayer", "simulate", f"publications/{table.name}/job.yaml"]
    for setting in cell.settings:
        words += ["--set", setting]
    return shlex.join([*words, "--out", str(cell.folder(runs))])


def shown(words: Sequence[str]) -> str:
    """The command of a page: folders of this machine by their last name, and runs as DIR."""
    found, option = ["python", "publications/make_tables.py"], ""
    for word in words:
        if word.startswith("--"):
            option = word
        elif option == "--runs":
            word = "DIR"
        elif option in ("--model", "--data"):
            name, equals, folder = word.rpartition("=")
            word = name + equals + (Path(folder).name if Path(folder).exists() else folder)
        if word != "--only-report":
            found.append(word)
    return shlex.join(found)


def run_all(table: Table, cells: Sequence[Cell], runs: Path) -> dict[Cell, str]:
    """Train every cell that is not there yet; returns why some could not be, as one sentence."""
    failed = {}
    for cell in cells:
        try:
            run(table, cell, runs)
        except (RunError, AllocationError) as error:  # as where no vehicle can finish a round
            failed[cell] = str(error)
            print(error, flush=True)
    return failed


def run(table: Table, cell: Cell, runs: Path) -> None:
    """Train a cell, unless it is there; go on with one that was broken off."""
    folder = cell.folder(runs)
    if is_finished(table, cell, runs):
        return
    rate = "" if cell.rate is None else f", learning rate {cell.rate:g}"
    print(f"{cell.column}: {cell.line}, seed {cell.seed}{rate}", flush=True)
    if (folder / STATE_FILE).exists():
        resume(folder, progress=Silent())
    else:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that failed before its first round
        simulate(job_of(table, cell), out=folder, progress=Silent())


def is_finished(table: Table, cell: Cell, runs: Path) -> bool:
    """Whether a cell was trained. Raises SystemExit where its folder holds a run of another job."""
    folder = cell.folder(runs)
    if (folder / JOB_FILE).exists() and load_job(folder / JOB_FILE) != job_of(table, cell):
        raise SystemExit(f"--runs: {folder} holds a run of another setting: give a new folder")
    return (folder / ADAPTER_FOLDER).is_dir()


def report(
    table: Table, cells: Sequence[Cell], options: argparse.Namespace, failed: dict[Cell, str]
) -> str:
    """The page: where and with what, what differs from the paper, the table, what is missing.

    failed: why cells could not be trained.
    """
    rows: Runs = {}
    missing = []
    for cell in cells:
        if is_finished(table, cell, options.runs):
            found = read_rows(cell.folder(options.runs))
            rows.setdefault((cell.line, cell.column), {})[cell.seed] = found
        else:
            why = f" ({failed[cell]})" if cell in failed else ""
            missing.append(f"{cell.column}: {cell.line}, seed {cell.seed}{why}")
    trained = [column for column in table.columns if any(key[1] == column for key in rows)]
    rates = {(one.line, one.column): one.rate for one in cells if one.rate is not None}
    lines = [_line(table, label, trained, rows, rates) for label in table.lines]
    text = [f"# {table.title}", describe(), _about(table, cells, options)]
    text.append(f"    {shown(sys.argv[1:])}")
    there = [line for line in lines if len(line) > 1]
    text.append(tables.markdown(there, _columns(table, trained, there)))
    text += differences(there, trained, table.compare, table.published)
    untuned = [
        f"{column}: {line}, all rates and seeds{_why(failed, line, column)}"
        for column, line in asked(table, options)
        if options.rates and (line, column) not in rates
    ]
    below = [*_alike(rows), *_in_vain(rows), *_untrained([*untuned, *missing])]
    below += [*_edges(rates, options.rates), *_left_out(table, options)]
    text.append(_notes(table, below))
    return "\n\n".join(text) + "\n"


def _line(
    table: Table, label: str, shown: Sequence[str], rows: Runs, rates: Rates
) -> dict[str, Any]:
    """A line of the table: accuracy by seed, the paper's, and in the mean of a round its bytes and,
    in a world, its virtual seconds.
    """
    found: dict[str, Any] = {"line": label}
    for column in shown:
        if by_seed := rows.get((label, column)):
            runs = list(by_seed.values())
            found[f"{column} by seed"] = {
                seed: _accuracy(table, run[-1]) for seed, run in by_seed.items()
            }
            found[column] = list(found[f"{column} by seed"].values())
            if (rate := rates.get((label, column))) is not None:
                found[f"{column} rate"] = f"{rate:g}"
            found[f"{column} bytes"] = mean(
                mean(row.up_bytes + row.down_bytes for row in one) for one in runs
            )
            seconds = [row.virtual_s for one in runs for row in one if row.virtual_s is not None]
            if any(seconds):  # none where all is trained in one place
                found[f"{column} seconds"] = mean(seconds)
            if (stated := table.published.get(column, {}).get(label)) is not None:
                found[f"{column} paper"] = stated / 100
    return found


def _accuracy(table: Table, row: Row) -> float | None:
    if table.through_cut and row.accuracy_through_cut is not None:
        return row.accuracy_through_cut
    return row.accuracy


def _columns(
    table: Table, shown: Sequence[str], lines: Sequence[dict[str, Any]]
) -> list[tables.Column]:
    found = [tables.Column("line", "trained with", "text")]
    for column in shown:
        found.append(tables.Column(column, column, "percent"))
        if any(f"{column} rate" in line for line in lines):
            found.append(tables.Column(f"{column} rate", "learning rate", "text"))
        if column in table.published:
            found.append(tables.Column(f"{column} paper", "the paper's", "percent"))
        found.append(tables.Column(f"{column} bytes", "bytes a round", "bytes"))
        if any(f"{column} seconds" in line for line in lines):
            found.append(tables.Column(f"{column} seconds", "virtual time a round", "seconds"))
    return found


def _about(table: Table, cells: Sequence[Cell], options: argparse.Namespace) -> str:
    """What was trained, and in what it differs from the paper's setting."""
    seeds = ", ".join(map(str, options.seeds))
    seeds = f"seeds {seeds}: mean and range" if len(options.seeds) > 1 else f"seed {seeds}"
    jobs = [job_of(table, cell) for cell in cells]
    data, training = [job.data for job in jobs], [job.training for job in jobs]
    said = (
        f"Table of {table.paper}. {_each(one.train_samples or 'all' for one in data)} training "
        f"and {_each(one.test_samples or 'all' for one in data)} test samples, "
        f"{_each(job.devices.count for job in jobs)} devices, "
        f"{_each(job.devices.cohort for job in jobs)} a round, "
        f"rounds {_each(one.rounds for one in training)}, "
        f"local epochs {_each(one.local_epochs for one in training)}, "
        f"batches of {_each(one.batch_size for one in training)}, "
        f"{_each(one.optimizer for one in training)} at {_each(one.lr for one in training)}, "
        f"{_each(one.precision for one in training)} products; {_tuned(options)}; {seeds}. "
    )
    said += (
        "Accuracy is that of device and server together, through the cut, where a method changes "
        "what crosses it; else of the exported adapter."
        if table.through_cut
        else "Accuracy is that of the exported adapter."
    )
    changed = [f"model {Path(options.model).name}"] if options.model else []
    other_model = bool(changed) or any(one.startswith("model.path=") for one in options.set)
    changed += [f"`{setting}`" for setting in options.set]
    if changed:
        said += f" Other than in job.yaml: {', '.join(changed)}."
        if table.published and other_model:
            said += (
                f" Its figures are of {table.published_with}, so that only differences between "
                "lines compare."
            )
    return said


def _tuned(options: argparse.Namespace) -> str:
    """How learning rates were chosen."""
    if not options.rates:
        return "the learning rate was not tuned"
    rates = ", ".join(f"{rate:g}" for rate in options.rates)
    return (
        f"the learning rate of each line is the best of {rates} on the {100 * HELD_OUT:.0f} % of "
        f"their samples that devices hold out, with seed {TUNING_SEED}"
    )


def _edges(rates: Rates, tried: Sequence[float]) -> Iterator[str]:
    """How many lines do best with the smallest or the largest rate that was tried."""
    if rates:
        low, high = (list(rates.values()).count(find(tried)) for find in (min, max))
        yield (
            f"Of {len(rates)} learning rates {low} are the smallest and {high} the largest that "
            "was tried: what is best for these may lie beyond."
        )


def _why(failed: dict[Cell, str], line: str, column: str) -> str:
    """Why no learning rate of a line could be tried, where that is known."""
    reasons = [why for cell, why in failed.items() if (cell.line, cell.column) == (line, column)]
    return f" ({reasons[0]})" if reasons else ""


def _each(values: Iterable[object]) -> str:
    """A setting of all cells: its value, or its values where columns or lines differ in it."""
    found = dict.fromkeys(
        f"{one:,}" if isinstance(one, int) else f"{one:g}" if isinstance(one, float) else str(one)
        for one in values
    )
    return " or ".join(found)


def _in_vain(rows: Runs) -> Iterator[str]:
    """The runs with rounds that changed nothing, since every device that trained was late."""
    for (line, column), runs in rows.items():
        for run in runs.values():
            if vain := sum(row.in_vain for row in run):
                yield f"{column}: {line}: no device was in time in {vain} of {len(run)} rounds."


def _alike(rows: Runs) -> Iterator[str]:
    """Lines of a column that come to the same accuracy with every seed."""
    alike: dict[tuple[str, tuple[float | None, ...]], list[str]] = {}
    for (line, column), runs in rows.items():
        accuracies = tuple(run[-1].accuracy for run in runs.values())
        alike.setdefault((column, accuracies), []).append(line)
    for (column, _), lines in alike.items():
        if len(lines) > 1:
            yield f"{column}: {', '.join(lines)} come to the same accuracy with every seed."


def _left_out(table: Table, options: argparse.Namespace) -> Iterator[str]:
    """What of the table was not asked for."""
    for what, every, asked in (
        ("columns", table.columns, options.columns),
        ("lines", table.lines, options.lines),
        ("seeds", SEEDS, options.seeds),
    ):
        left = [str(one) for one in every if asked and one not in asked]
        if left:
            yield f"Not asked for: {what} {', '.join(left)}."


def _untrained(missing: Sequence[str]) -> list[str]:
    return [f"Not trained: {'; '.join(missing)}."] if missing else []


def _notes(table: Table, found: Sequence[str]) -> str:
    notes = [f"- {note}" for note in (*table.notes, *found)]
    notes.append("- Each line by one command: with `--list` this page's command prints them.")
    return "\n".join(notes)


if __name__ == "__main__":
    main()
