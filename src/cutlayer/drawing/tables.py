"""One table, for a terminal (rich) and a report (Markdown); a notebook takes the same cells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table

Kind = Literal["text", "count", "number", "percent", "bytes", "flops", "seconds", "ratio"]
Row = Mapping[str, Any]

_SCALES: dict[Kind, tuple[float, str]] = {
    "percent": (100.0, "%"),
    "bytes": (1e-6, "MB"),
    "flops": (1e-9, "GFLOP"),
    "seconds": (1.0, "s"),
    "ratio": (1.0, "x"),
}
MISSING = "-"
_LABEL = 24
_WIDEST = 10_000


@dataclass(frozen=True)
class Column:
    """A column: the key of its values in a row, its title, and what the values are.

    kind: "text" is shown as it is; all others are right-aligned numbers. Values are given in
    fractions (percent), bytes, FLOPs, seconds or plain numbers, and shown in %, MB (1e6), GFLOP
    (1e9), s and x, with the unit in the header. A sequence of numbers (one a seed) is shown as
    its mean and, where they differ, its range. None and NaN are shown as "-".
    """

    key: str
    title: str
    kind: Kind = "number"

    @property
    def header(self) -> str:
        """The title with the unit."""
        return f"{self.title} ({_SCALES[self.kind][1]})" if self.kind in _SCALES else self.title


def render(rows: Sequence[Row], columns: Sequence[Column], title: str | None = None) -> Table:
    """The rows as a rich table, to be printed by a rich console."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=0)
    grid = [column_cells(rows, column) for column in columns]
    for column, cells in zip(columns, grid, strict=True):
        left = column.kind == "text"
        # Numbers and the words of headers stay whole; long texts may break.
        words = column.header.split() + [cell[:_LABEL] if left else cell for cell in cells]
        table.add_column(
            Text(column.header),
            justify="left" if left else "right",
            vertical="bottom",
            overflow="fold",
            width=max(map(len, words)),
        )
    for line in zip(*grid, strict=True):
        table.add_row(*(Text(cell) for cell in line))
    return table


@dataclass(frozen=True)
class Fitted:
    """A table that a rich console prints in as many parts as its width asks for.

    Each part begins with the columns of text; columns without any value are left out.
    """

    rows: Sequence[Row]
    columns: Sequence[Column]
    title: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """The parts, one below the other."""
        texts = [column for column in self.columns if column.kind == "text"]
        part, title = list(texts), self.title
        for column in self.columns:
            if column in texts or set(column_cells(self.rows, column)) == {MISSING}:
                continue
            wider = render(self.rows, [*part, column], title)
            wanted = console.measure(wider, options=options.update(width=_WIDEST)).maximum
            if part != texts and wanted > options.max_width:
                yield render(self.rows, part, title)
                part, title = list(texts), None
            part.append(column)
        yield render(self.rows, part, title)


def markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The rows as a Markdown table whose source is aligned too; ends with a newline."""
    grid = [
        [text.replace("|", "\\|") for text in (column.header, *column_cells(rows, column))]
        for column in columns
    ]
    widths = [max(3, *map(len, cells)) for cells in grid]
    lines = []
    for line in zip(*grid, strict=True):
        padded = [
            cell.ljust(width) if column.kind == "text" else cell.rjust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        lines.append(f"| {' | '.join(padded)} |")
    rules = [
        "-" * width if column.kind == "text" else "-" * (width - 1) + ":"
        for width, column in zip(widths, columns, strict=True)
    ]
    lines.insert(1, f"| {' | '.join(rules)} |")
    return "\n".join(lines) + "\n"


def column_cells(rows: Sequence[Row], column: Column) -> list[str]:
    """A column's values as texts, all with the same number of decimals."""
    values = [row.get(column.key) for row in rows]
    if column.kind == "text":
        return [MISSING if value is None else " ".join(str(value).split()) for value in values]
    scale = _SCALES.get(column.kind, (1.0, ""))[0]
    seeds = [_numbers(value, scale) for value in values]
    decimals = _decimals(column.kind, [number for cell in seeds for number in cell])

    def show(number: float) -> str:
        return f"{number:,.{decimals}f}"

    cells = []
    for numbers in seeds:
        if not numbers:
            cells.append(MISSING)
            continue
        low, high = show(min(numbers)), show(max(numbers))
        span = "" if low == high else f" ({low} to {high})"
        cells.append(show(sum(numbers) / len(numbers)) + span)
    return cells


def _numbers(value: Any, scale: float) -> list[float]:
    given = value if isinstance(value, Sequence) else [value]
    return [float(v) * scale for v in given if v is not None and not math.isnan(v)]


def _decimals(kind: Kind, numbers: Sequence[float]) -> int:
    """Enough for two digits of the smallest number, but at most three."""
    sizes = [abs(number) for number in numbers if number and math.isfinite(number)]
    if kind == "count" or not sizes:
        return 0
    if kind == "percent":
        return 1
    return min(3, max(0, 1 - math.floor(math.log10(min(sizes)))))
