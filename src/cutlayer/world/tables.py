"""Tables of numbers from CSV files, refused with the row and the column that is wrong."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cutlayer.errors import WorldError
from cutlayer.settings.units import in_own_unit
from cutlayer.world.trace_files import read_file
from cutlayer.world.units import Array, Flags


@dataclass(frozen=True)
class Table:
    """Columns of finite numbers, [rows] each, and the line of the file that each row came from."""

    where: str
    columns: dict[str, Array]
    lines: list[int]

    def refuse(self, column: str, bad: Flags, remedy: str) -> None:
        """Raise WorldError for the first row where `bad` is set, if there is one."""
        if bad.any():
            row = int(np.argmax(bad))
            raise WorldError(
                f"{self.where}, line {self.lines[row]}: {column} is "
                f"{self.columns[column][row]:g}: {remedy}"
            )


def read_table(path: str | Path, wanted: Sequence[str], field: str) -> Table:
    """The `wanted` columns of a CSV file with a header line; other columns are ignored.

    field: the job's field that names the file, for messages. Raises WorldError for a file that
    cannot be read, a missing column, no rows, or a value that is not a finite number.
    """
    where = f"{field}: {Path(path).name}"
    content = read_file(path, field)
    cut_off = not content.endswith((b"\n", b"\r"))
    rows: list[list[float]] = []
    lines: list[int] = []
    try:
        with io.StringIO(content.decode("utf-8-sig"), newline="") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in wanted if name not in header]
            if missing:
                raise WorldError(
                    f"{where} has no column {missing[0]}: its first line must name the columns "
                    f"{', '.join(wanted)}"
                )
            last = stream.getvalue().count("\n") + 1
            places = [header.index(name) for name in wanted]
            for cells in reader:
                if not cells:
                    continue
                line = f"{where}, line {reader.line_num}"
                if len(cells) < len(header) and cut_off and reader.line_num == last:
                    raise WorldError(
                        f"{line} breaks off: the file is unfinished, wait until it is written or "
                        "remove its last line"
                    )
                rows.append(_numbers(cells, places, wanted, line))
                lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise WorldError(f"{where} cannot be read ({error}): give a CSV text file") from None
    if not rows:
        raise WorldError(f"{where} has no rows below its header: add at least one")
    values = np.array(rows, dtype=np.float64)
    columns = {name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(wanted)}
    return Table(where, columns, lines)


def _numbers(cells: list[str], places: list[int], wanted: Sequence[str], where: str) -> list[float]:
    numbers = []
    for place, name in zip(places, wanted, strict=True):
        text = cells[place].strip() if place < len(cells) else ""
        try:
            number = float(text)
        except ValueError:
            number = _quantity(name, text, where)
        if not math.isfinite(number):
            raise WorldError(f"{where}: {name} is {text!r}: write a finite number")
        numbers.append(number)
    return numbers


def _quantity(name: str, text: str, where: str) -> float:
    """The number of a text such as `-95 dB` in the unit of its column; NaN where it is none.

    Raises WorldError for a unit that the column does not have.
    """
    try:
        found = in_own_unit(name, text)
    except ValueError as error:
        raise WorldError(f"{where}: {error}") from None
    return math.nan if isinstance(found, str) else float(found)
