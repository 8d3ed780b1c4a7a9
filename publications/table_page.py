"""The page of a paper's table: what was trained, the figures, and what is missing."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from cutlayer.drawing import tables
from cutlayer.record.row_lines import read_rows
from cutlayer.record.rows import Row
from differences import differences
from environment import command, describe, placed
from fair_findings import of_edges
from fair_lines import TUNING_SEED
from table_runs import Cell, Rates, Table, is_finished, job_of

SEEDS = (0, 1, 2)
Runs = dict[tuple[str, str], dict[int, list[Row]]]
"""The rows of the runs of a line and column, by seed."""


def report(
    table: Table,
    trials: Sequence[Cell],
    cells: Sequence[Cell],
    options: argparse.Namespace,
    failed: Mapping[Cell, str],
) -> str:
    """The page: where and with what, what differs from the paper, the table, what is missing.

    trials: the runs by which learning rates are chosen. failed: why cells could not be trained.
    """
    rows: Runs = {}
    missing = []
    for cell in cells:
        if is_finished(table, cell, options.runs):
            found = read_rows(cell.folder(options.runs))
            rows.setdefault((cell.line, cell.column), {})[cell.seed] = found
        else:
            missing.append(f"{cell.column}: {cell.line}, seed {cell.seed}{_why(failed, cell)}")
    tested = [cell for cell in trials if is_finished(table, cell, options.runs)]
    untested = [
        f"{cell.column}: {cell.line} at a learning rate of {cell.rate}{_why(failed, cell)}"
        for cell in trials
        if cell not in tested
    ]
    trained = [column for column in table.columns if any(key[1] == column for key in rows)]
    rates = {(one.line, one.column): one.rate for one in cells if one.rate is not None}
    lines = [_line(table, label, trained, rows, rates) for label in table.lines]
    there = [line for line in lines if len(line) > 1]
    text = [f"# {table.title}", describe()]
    if cells:
        text.append(_about(table, tested, cells, options))
    text.append(f"    {command('publications/make_tables.py', {'--runs': 'DIR'})}")
    text.append(tables.markdown(there, _columns(table, trained, there)) if there else "")
    text += differences(there, trained, table.compare, table.published)
    chosen = [rate for key, rate in rates.items() if key in rows]
    below = [
        *_alike(table, rows),
        *_in_vain(rows),
        *_listed("Not trained", missing),
        *_listed("Not tried", untested),
        *of_edges(chosen, options.rates),
        *_left_out(table, options),
    ]
    text.append(_notes(table, below))
    return "\n\n".join(one.strip("\n") for one in text if one) + "\n"


def _line(
    table: Table, label: str, shown: Sequence[str], rows: Runs, rates: Rates
) -> dict[str, Any]:
    """A line of the table: accuracy by seed, its learning rate where that was tuned, the paper's
    accuracy, and by seed, in the mean of a round, its bytes and, in a world, its virtual seconds.
    """
    found: dict[str, Any] = {"line": label}
    for column in shown:
        if by_seed := rows.get((label, column)):
            accuracy = {seed: _accuracy(table, run[-1]) for seed, run in by_seed.items()}
            found[column] = list(accuracy.values())
            found[f"{column} by seed"] = accuracy
            if (rate := rates.get((label, column))) is not None:
                found[f"{column} rate"] = f"{rate:g}"
            found[f"{column} bytes"] = {
                seed: mean(row.up_bytes + row.down_bytes for row in run)
                for seed, run in by_seed.items()
            }
            found[f"{column} mean bytes"] = mean(found[f"{column} bytes"].values())
            seconds = {
                seed: mean(row.virtual_s or 0.0 for row in run) for seed, run in by_seed.items()
            }
            if any(seconds.values()):  # none where all is trained in one place
                found[f"{column} seconds"] = seconds
                found[f"{column} mean seconds"] = mean(seconds.values())
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
        found.append(tables.Column(f"{column} mean bytes", "bytes a round", "bytes"))
        if any(f"{column} seconds" in line for line in lines):
            found.append(tables.Column(f"{column} mean seconds", "virtual time a round", "seconds"))
    return found


def _about(
    table: Table, tested: Sequence[Cell], cells: Sequence[Cell], options: argparse.Namespace
) -> str:
    """What was trained, and in what it differs from the paper's setting."""
    seeds = ", ".join(map(str, options.seeds))
    seeds = f"seeds {seeds}: mean and range" if len(options.seeds) > 1 else f"seed {seeds}"
    jobs = [job_of(table, cell) for cell in cells]
    data, training = [job.data for job in jobs], [job.training for job in jobs]
    poisson = any(job.devices.participation == "poisson" for job in jobs)
    said = (
        f"Table of {table.paper}. Training samples: "
        f"{_each(one.train_samples or 'all' for one in data)}; test samples: "
        f"{_each(one.test_samples or 'all' for one in data)}; "
        f"{_each(job.devices.count for job in jobs)} devices, "
        f"{_each(job.devices.cohort for job in jobs)} a round{' in the mean' if poisson else ''}, "
        f"rounds {_each(one.rounds for one in training)}, "
        f"local epochs {_each(one.local_epochs for one in training)}, "
        f"batches of {_each(one.batch_size for one in training)}, "
        f"{_each(one.optimizer for one in training)} at {_each(one.lr for one in training)}, "
        f"{_each(one.precision for one in training)} products; {_tuned(tested, options)}; {seeds}. "
    )
    said += (
        "Accuracy is that of device and server together, through the cut, where a method changes "
        "what crosses it; else of the exported adapter."
        if table.through_cut
        else "Accuracy is that of the exported adapter."
    )
    if "local-lora" in {cell.line for cell in cells}:
        said += " Of local-lora it is the mean of the devices' own models."
    said += " Bytes are those of all devices together, up and down, in the mean of the rounds."
    changed = [f"model {Path(options.model).name}"] if options.model else []
    other_model = bool(changed) or any(one.startswith("model.path=") for one in options.set)
    changed += [f"`{placed(setting)}`" for setting in options.set]
    if changed:
        said += f" Other than in job.yaml: {', '.join(changed)}."
        if table.published and other_model:
            said += (
                f" The paper's figures are of {table.published_with}, so that only differences "
                "between lines compare."
            )
    return said


def _tuned(tested: Sequence[Cell], options: argparse.Namespace) -> str:
    """How learning rates were chosen."""
    if not options.rates:
        return "the learning rate was not tuned"
    last = [read_rows(cell.folder(options.runs))[-1] for cell in tested]
    counts = [sum(row.held_out_samples) for row in last]
    span = (
        f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    )
    return (
        f"the learning rate of each line and column is the best of "
        f"{', '.join(f'{rate:g}' for rate in options.rates)} by the exported adapter's accuracy on "
        f"the {span} samples that devices hold out in every run and never train on, with seed "
        f"{TUNING_SEED}"
    )


def _why(failed: Mapping[Cell, str], cell: Cell) -> str:
    """Why a cell could not be trained, where that is known."""
    return f" ({failed[cell]})" if cell in failed else ""


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


def _alike(table: Table, rows: Runs) -> Iterator[str]:
    """Lines of a column that come to the same accuracy with every seed."""
    alike: dict[tuple[str, tuple[tuple[int, float | None], ...]], list[str]] = {}
    for (line, column), runs in rows.items():
        accuracies = tuple((seed, _accuracy(table, run[-1])) for seed, run in runs.items())
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
            yield f"Not asked for: {what if len(left) > 1 else what[:-1]} {', '.join(left)}."


def _listed(what: str, names: Sequence[str]) -> list[str]:
    return [f"{what}: {'; '.join(names)}."] if names else []


def _notes(table: Table, found: Sequence[str]) -> str:
    notes = [f"- {note}" for note in (*table.notes, *found)]
    notes.append("- Each line by one command: with `--list` this page's command prints them.")
    return "\n".join(notes)
