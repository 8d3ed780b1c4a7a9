"""A comparison as files that a paper takes: CSV, and LaTeX for booktabs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from cutlayer.reports.views.comparison import Column, columns_of
from cutlayer.reports.views.runs import Line
from cutlayer.reports.views.statistics import half_width

_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}  # fmt: skip


@dataclass(frozen=True)
class _Cell:
    """A column's values of one line, a number for each run that has one."""

    values: Sequence[float]

    @property
    def mean(self) -> float | None:
        return mean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds (n - 1); None with fewer than two."""
        return stdev(self.values) if len(self.values) > 1 else None


def as_csv(lines: Sequence[Line], reference: Line | None = None) -> str:
    """A row for each line: of each column the mean, the standard deviation, the half-width of the
    95 % interval of the mean (Student's t), and how many seeds have a value.
    """
    grid = _grid(lines, reference)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [
        f"{column.title} {what}"
        for column, _ in grid
        for what in ("mean", "standard deviation", "95 % half-width", "seeds")
    ]
    writer.writerow(["label", "seeds", *names])
    for place, line in enumerate(lines):
        row: list[object] = [line.label, " ".join(str(run.job.seed) for run in line.runs)]
        for _, cells in grid:
            cell = cells[place]
            row += [cell.mean, cell.deviation, half_width(cell.values), len(cell.values)]
        writer.writerow("" if value is None else value for value in row)
    return text.getvalue()


def as_latex(lines: Sequence[Line], reference: Line | None = None) -> str:
    """A tabular for `\\usepackage{booktabs}`: mean and standard deviation, the best in bold.

    A row for each line, or for each figure if there are fewer lines than figures, so that it is as
    narrow as can be. What is printed alike is bold alike, and nothing is where all is alike; the
    comments above say what the numbers are.
    """
    grid = _grid(lines, reference)
    most = max(len(line.runs) for line in lines)
    said = "mean and standard deviation over seeds" if most > 1 else "one seed a line"
    figures = [[escape(column.title), *_shown(column, cells)] for column, cells in grid]
    columns = [["method", *(escape(line.label) for line in lines)], *figures]
    rows = columns if len(lines) < len(figures) else list(zip(*columns, strict=True))
    head, *body = [" & ".join(cells) + r" \\" for cells in rows]
    return "\n".join(
        [
            f"% {said}: "
            + "; ".join(f"{' '.join(line.label.split())}: {_seeds(line)}" for line in lines),
            *(f"% {column.title}: {column.note}" for column, _ in grid if column.note),
            f"\\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escape(text: str) -> str:
    """The text with what LaTeX would read as its own made plain."""
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))


def _seeds(line: Line) -> str:
    return "seeds " + ", ".join(str(run.job.seed) for run in line.runs)


def _grid(lines: Sequence[Line], reference: Line | None) -> list[tuple[Column, list[_Cell]]]:
    """Each column that any run has a value of, with a cell for each line."""
    grid = []
    for column in columns_of(lines, reference):
        found = [[column.value(run) for run in line.runs] for line in lines]
        cells = [_Cell([value for value in cell if value is not None]) for cell in found]
        if any(any(cell.values) for cell in cells):
            grid.append((column, cells))
    return grid


def _shown(column: Column, cells: Sequence[_Cell]) -> list[str]:
    """The cells of a column in LaTeX, all with the same number of decimals."""
    means = [cell.mean for cell in cells if cell.mean is not None]
    decimals = column.decimals
    if decimals is None:
        sizes = [abs(value) for value in means if value]
        decimals = min(3, max(0, 2 - math.floor(math.log10(min(sizes))))) if sizes else 0
    printed = {f"{value:,.{decimals}f}" for value in means}
    best = f"{max(means) if column.best == 'most' else min(means):,.{decimals}f}"
    shown = []
    for cell in cells:
        if cell.mean is None:
            shown.append("--")
            continue
        text = f"{cell.mean:,.{decimals}f}"
        text = rf"\textbf{{{text}}}" if text == best and len(printed) > 1 else text
        spread = cell.deviation
        shown.append(text if spread is None else rf"{text} $\pm$ {spread:,.{decimals}f}")
    return shown
