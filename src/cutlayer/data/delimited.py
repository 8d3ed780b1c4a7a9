"""Rows of text files: CSV, TSV and JSON lines, in the dialect they are written in."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutlayer.data.source_settings import SourceSettings
from cutlayer.errors import DataError

ABSENT = object()
"""The value of a column that a line of JSON does not have."""

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".ndjson")
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class TextFile:
    """A file's rows, each with a value for each column.

    names: what errors call each row. note: how the file turned out to be written (its quotes), for
    people; "" if there is nothing to say.
    """

    columns: list[str]
    rows: list[list[Any]]
    names: list[str]
    note: str = ""


def read(file: Path, data: SourceSettings) -> TextFile:
    """The rows of a file. JSON lines have the columns of the first line. Raises DataError."""
    text = _decoded(file, data.encoding)
    if file.suffix.lower() in (".csv", ".tsv"):
        return _separated(file, text, data)
    return _json_lines(file, text)


def _decoded(file: Path, encoding: str | None) -> str:
    try:
        content = file.read_bytes()
        if encoding is None:
            marks = (name for mark, name in _MARKS.items() if content.startswith(mark))
            encoding = next(marks, "utf-8")
        return content.decode(encoding)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): make it readable") from None
    except UnicodeError as error:
        raise DataError(
            f"{file} cannot be read as {encoding} ({error}): name its encoding in data.encoding, "
            "as cp1252 for many files of spreadsheets"
        ) from None


def _separated(file: Path, text: str, data: SourceSettings) -> TextFile:
    tabs = file.suffix.lower() == ".tsv"
    delimiter = data.delimiter or ("\t" if tabs else ",")
    plain = data.quotes == "plain"
    note = ""
    if data.quotes == "auto" and tabs and '"' in text:
        plain = _quotes_are_plain(text, delimiter)
        note = f"{file.name}: quotes read as {'plain characters' if plain else 'those of CSV'}"
    try:
        lines = list(_records(text, delimiter, plain))
    except csv.Error as error:
        raise DataError(
            f"{file} cannot be read as a table ({error}): close its quotes and double those inside "
            "a value, or set data.quotes=plain if they are plain characters"
        ) from None
    if not lines:
        raise DataError(f"{file} is empty: its first line names the columns")
    columns = [name.strip() for name in lines[0][1]]
    rows, names = [], []
    for number, (line, values) in enumerate(lines[1:], 1):
        if len(values) != len(columns):
            raise DataError(
                f"{file}, row {number} (line {line}), has {len(values)} values for "
                f"{len(columns)} columns: correct it, or say in data.delimiter and data.quotes how "
                "the file is written"
            )
        rows.append(values)
        names.append(f"{file}, row {number},")
    return TextFile(columns, rows, names, note)


def _records(text: str, delimiter: str, plain: bool) -> Iterator[tuple[int, list[str]]]:
    """The number and the values of each line that is not empty."""
    # A value may be as long as the file; the limit belongs to the whole process.
    limit = csv.field_size_limit(max(len(text), 131072))
    try:
        if plain:  # csv would take a carriage return inside a line as its end
            for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
                if line:
                    yield number, line.split(delimiter)
        else:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            for values in reader:
                if values:
                    yield reader.line_num, values
    finally:
        csv.field_size_limit(limit)


def _quotes_are_plain(text: str, delimiter: str) -> bool:
    """Whether a table with quotes makes sense only if they are plain characters.

    They are if each line by itself has the right number of values and some value begins with a
    quote that nothing closes: read as CSV, that value would swallow the lines that follow.
    """
    lines = [line.split(delimiter) for line in text.replace("\r\n", "\n").split("\n") if line]
    if any(len(values) != len(lines[0]) for values in lines):
        return False
    opened = [v for values in lines for v in values if v.startswith('"')]
    return not opened or any(not _well_quoted(value) for value in opened)


def _well_quoted(value: str) -> bool:
    inside = value[1:-1]
    return len(value) > 1 and value.endswith('"') and '"' not in inside.replace('""', "")


def _json_lines(file: Path, text: str) -> TextFile:
    columns: list[str] | None = None
    rows, names = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        name = f"{file}, line {number},"
        try:
            row = json.loads(line, object_pairs_hook=_once)
        except _TwiceError as error:
            raise DataError(f"{name} has {error} twice: keep one of them") from None
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{name} is not JSON ({error}): write one object a line") from None
        if not isinstance(row, dict):
            raise DataError(f"{name} is not a JSON object: write one object a line")
        if columns is None:
            columns = list(row)
        rows.append([row.get(key, ABSENT) for key in columns])
        names.append(name)
    return TextFile(columns or [], rows, names)


class _TwiceError(Exception):
    """A JSON object has a key twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(repr(next(key for key in keys if keys.count(key) > 1)))
    return found
