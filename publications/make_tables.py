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
that devices hold out, with a seed that the table does not use; --list then has the runs that try
rates first, and those of the table once these are done. Without, the learning rate is the job's.

As they are, the jobs take their model and data from the Hugging Face hub and are as large as the
paper's. --model, --data and --set put others in their place and make them smaller; what was
changed stands in the table's text. --write writes PAPER's results.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from cutlayer.errors import AllocationError, CutlayerError, RunError
from cutlayer.record.folder import STATE_FILE
from cutlayer.rounds.progress import Silent
from cutlayer.simulation.simulate import resume, simulate

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "benchmarks")]  # these modules are in no package

from table_page import SEEDS, report  # noqa: E402
from table_runs import (  # noqa: E402
    Cell,
    Table,
    best_rates,
    command_of,
    held_out_of,
    is_finished,
    job_of,
    read_table,
    tried,
    wanted,
)


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
        rates = best_rates(table, trials, runs, failed)
        cells = list(wanted(table, options, rates))
        if options.list:
            for cell in (*trials, *cells):
                print(command_of(table, cell, runs))
            return
        failed |= run_all(table, cells, runs) if trains else {}
        text = report(table, trials, cells, options, failed)
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
    parser.add_argument(
        "--held-out", type=float, default=0.1, metavar="SHARE",
        help="of each device's samples, on which learning rates are chosen",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print the commands and train nothing")
    parser.add_argument("--only-report", action="store_true", help="train nothing")
    parser.add_argument("--write", action="store_true", help="write results.md")
    return parser.parse_args(words)


def run_all(table: Table, cells: Sequence[Cell], runs: Path) -> dict[Cell, str]:
    """Train every cell that is not there yet; returns why some could not be, as one sentence.

    Raises SystemExit where a learning rate is to be chosen and devices hold out no sample.
    """
    failed = {}
    for cell in cells:
        try:
            run(table, cell, runs)
        except (RunError, AllocationError) as error:  # as where no vehicle can finish a round
            failed[cell] = str(error)
            print(error, flush=True)
            continue
        if cell.tunes:
            held_out_of(cell, runs)
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


if __name__ == "__main__":
    main()
