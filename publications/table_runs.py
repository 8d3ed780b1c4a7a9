"""The runs of a paper's table: their settings, their folders, and which learning rate they have."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutlayer.job import Job, change_job, load_job
from cutlayer.plain_yaml import parse_yaml
from cutlayer.record.folder import ADAPTER_FOLDER, JOB_FILE
from cutlayer.record.row_lines import read_rows
from fair_lines import TUNING_SEED, UNREAD, held_out

HERE = Path(__file__).parent

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

    @property
    def tunes(self) -> bool:
        """Whether it is there to choose a learning rate, and not for the table."""
        return self.rate is not None and self.seed == TUNING_SEED

    def folder(self, runs: Path) -> Path:
        """Its run folder."""
        rate = "" if self.rate is None else f"-{self.rate}"
        name = f"{self.column}-{self.line}-{self.seed}{rate}"
        return runs / name.replace(" ", "_").replace(",", "")


def read_table(name: str) -> Table:
    """A paper's table. Raises CutlayerError."""
    path = HERE / name / "table.yaml"
    return Table(name=name, **parse_yaml(path.read_text()))


def tried(table: Table, options: argparse.Namespace) -> Iterator[Cell]:
    """The runs by which the learning rate of each line and column is chosen."""
    if options.rates:
        _check_tuning(options)
    for column, line in asked(table, options):
        for rate in options.rates:
            settings = settings_of(table, line, column, TUNING_SEED, options, rate)
            settings.append(f"data.test_samples={UNREAD}")
            yield Cell(line, column, TUNING_SEED, tuple(settings), rate)


def best_rates(
    table: Table, trials: Sequence[Cell], runs: Path, failed: Mapping[Cell, str]
) -> Rates:
    """The rate with the highest accuracy on held-out samples, of lines of which every rate was
    tried to the end or could not be.
    """
    found: dict[tuple[str, str], dict[float, float]] = {}
    undone = set()
    for cell in trials:
        assert cell.rate is not None
        if is_finished(table, cell, runs):
            accuracy = held_out_of(cell, runs)
            found.setdefault((cell.line, cell.column), {})[cell.rate] = accuracy
        elif cell not in failed:
            undone.add((cell.line, cell.column))
    return {key: max(one, key=one.__getitem__) for key, one in found.items() if key not in undone}


def held_out_of(cell: Cell, runs: Path) -> float:
    """A run's accuracy on what devices hold out. Raises SystemExit where that is nothing."""
    try:
        return held_out(read_rows(cell.folder(runs))[-1])
    except ValueError as error:
        raise SystemExit(
            f"--rates: {cell.column}: {error}: raise --held-out, or data.train_samples"
        ) from None


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


def _check_tuning(options: argparse.Namespace) -> None:
    """Raises SystemExit for what learning rates that are tuned leave no room for."""
    if TUNING_SEED in options.seeds:
        raise SystemExit(f"--seeds: learning rates are tried with {TUNING_SEED}: take another")
    for setting in options.set:
        for field in ("training.lr", "data.partition.held_out"):
            if setting.startswith(f"{field}="):
                raise SystemExit(f"--set: {field} is set by --rates and --held-out: leave it out")


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
        tuned = [f"data.partition.held_out={options.held_out}", f"training.lr={rate}"]
    return [*values, *method, *options.set, *tuned, f"seed={seed}"]


def data_of(table: Table, column: str) -> str:
    """The name of a column's data, which is the job's where the column names none."""
    named = table.columns[column].get("data.path")
    return str(named or load_job(HERE / table.name / "job.yaml").data.path)


def job_of(table: Table, cell: Cell) -> Job:
    """The job of a cell. Raises JobError."""
    return change_job(load_job(HERE / table.name / "job.yaml"), cell.settings)


def command_of(table: Table, cell: Cell, runs: Path) -> str:
    """The command that trains a cell, where `--runs` looks for it."""
    words = ["cutlayer", "simulate", f"publications/{table.name}/job.yaml"]
    for setting in cell.settings:
        words += ["--set", setting]
    return shlex.join([*words, "--out", str(cell.folder(runs))])


def is_finished(table: Table, cell: Cell, runs: Path) -> bool:
    """Whether a cell was trained. Raises SystemExit where its folder holds a run of another job."""
    folder = cell.folder(runs)
    if (folder / JOB_FILE).exists() and load_job(folder / JOB_FILE) != job_of(table, cell):
        raise SystemExit(f"--runs: {folder} holds a run of another setting: give a new folder")
    return (folder / ADAPTER_FOLDER).is_dir()
