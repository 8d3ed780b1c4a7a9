"""Rows of columns: parquet, Hugging Face datasets, and CSV or JSON-lines files of texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.data.rows import Rows
from cutlayer.errors import DataError
from cutlayer.settings.data import Data

if TYPE_CHECKING:
    import pyarrow as pa

INPUT_COLUMNS = ("image", "img", "text", "sentence")
"""Looked for, in this order, when data.input_column is not given."""

SPLITS = {"train": "train", "test": "test", "val": "val", "dev": "val", "eval": "val"}
"""How a file's or folder's name begins, and its split; "val" is tested on if there is no test."""


def existing(path: str | None, field: str) -> Path:
    """`path` as a Path; DataError if nothing is there."""
    found = Path(path or "").expanduser()
    if not path or not found.exists():
        raise DataError(f"{field}={path!r} does not exist: name a file or folder that does")
    return found


def parquet(data: Data) -> tuple[Rows, Rows | None]:
    """Train and test rows of parquet files: images (`{bytes, path}` or bytes) or texts."""
    return _splits(data, (".parquet",), _parquet_rows)


def texts(data: Data) -> tuple[Rows, Rows | None]:
    """Train and test rows of CSV, TSV or JSON-lines files, with a text and a label column."""
    return _splits(data, (".csv", ".tsv", ".jsonl", ".json"), _text_rows)


def hub(dataset: Any, data: Data, origin: str, base: Path) -> Rows:
    """Rows of one `datasets.Dataset`; images are decoded here, not there."""
    import datasets

    column = _column(data, dataset.column_names, origin)
    names = getattr(dataset.features[data.label_column], "names", None)
    feature = dataset.features[column]
    is_text = getattr(feature, "dtype", None) in ("string", "large_string")
    if not is_text and isinstance(feature, datasets.Image):
        dataset = dataset.cast_column(column, datasets.Image(decode=False))
    inputs = dataset.select_columns([column])
    return Rows(
        origin,
        list(dataset[data.label_column]),
        _cells(lambda i: inputs[i][column], origin, column, base),
        is_text,
        names and tuple(names),
    )


def _splits(
    data: Data, suffixes: tuple[str, ...], read: Callable[[list[Path], Data], Rows]
) -> tuple[Rows, Rows | None]:
    """One file, or a folder whose files or subfolders begin with train, test or val."""
    path = existing(data.path, "data.path")
    test_files: list[Path] = []
    if path.is_dir():
        files: dict[str | None, list[Path]] = {}
        for file in _files(path, suffixes, "data.path"):
            files.setdefault(_split_of(file.relative_to(path)), []).append(file)
        train_files = files.get("train") or files.get(None, [])
        test_files = files.get("test") or files.get("val", [])
        if not train_files or ("train" in files and None in files):
            odd = (files.get(None) or test_files)[0]
            raise DataError(
                f"data.path={str(path)!r}: {odd.name} does not tell what to train on: begin the "
                "files' names with train and test, or name one file"
            )
    else:
        train_files = [path]
    if data.test_path is not None:
        test = existing(data.test_path, "data.test_path")
        test_files = _files(test, suffixes, "data.test_path") if test.is_dir() else [test]
    return read(train_files, data), read(test_files, data) if test_files else None


def _files(folder: Path, suffixes: tuple[str, ...], field: str) -> list[Path]:
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    if not found:
        raise DataError(f"{field}={str(folder)!r} holds no {' or '.join(suffixes)} file")
    return found


def _split_of(relative: Path) -> str | None:
    for part in reversed(relative.parts):
        for start, split in SPLITS.items():
            if part.lower().startswith(start):
                return split
    return None


def _parquet_rows(files: list[Path], data: Data) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet

    origin = _origin(files)
    try:
        columns = pa.parquet.read_schema(files[0]).names
        column = _column(data, columns, origin)
        table = pa.parquet.read_table(files, columns=[column, data.label_column])
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{origin} cannot be read as parquet ({_first_line(error)}): replace the file"
        ) from None
    inputs = table[column]
    is_text = pa.types.is_string(inputs.type) or pa.types.is_large_string(inputs.type)
    return Rows(
        origin,
        table[data.label_column].to_pylist(),
        _cells(lambda i: inputs[i].as_py(), origin, column, files[0].parent),
        is_text,
        _parquet_names(table.schema, data.label_column),
    )


def _parquet_names(schema: pa.Schema, label_column: str) -> tuple[str, ...] | None:
    """The class names that Hugging Face datasets writes beside the data, if any."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _text_rows(files: list[Path], data: Data) -> Rows:
    found: list[tuple[Any, Any, str]] = []
    for file in files:
        columns = _json_columns if file.suffix.lower().startswith(".json") else _csv_columns
        found += columns(file, data)
    origin = _origin(files)
    inputs, labels, names = zip(*found, strict=True) if found else ((), (), ())
    return Rows(origin, labels, inputs.__getitem__, True, called=names.__getitem__)


def _csv_columns(file: Path, data: Data) -> list[tuple[Any, Any, str]]:
    import pyarrow as pa
    import pyarrow.csv

    column = data.input_column or "text"
    try:
        table = pa.csv.read_csv(
            file,
            read_options=pa.csv.ReadOptions(block_size=1 << 26),
            parse_options=pa.csv.ParseOptions(
                delimiter="\t" if file.suffix.lower() == ".tsv" else ",", newlines_in_values=True
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types={column: pa.string(), data.label_column: pa.string()}
            ),
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file} cannot be read as a UTF-8 CSV with a header ({_first_line(error)}): "
            "correct the file"
        ) from None
    _column(data, table.column_names, str(file), column)
    pairs = zip(table[column].to_pylist(), table[data.label_column].to_pylist(), strict=True)
    return [(text, label, f"{file}, row {i},") for i, (text, label) in enumerate(pairs, 1)]


def _json_columns(file: Path, data: Data) -> list[tuple[Any, Any, str]]:
    column = data.input_column or "text"
    found = []
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as UTF-8 JSON lines ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name = f"{file}, line {number},"
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{name} is not JSON ({error}): write one object a line") from None
        if not isinstance(row, dict):
            raise DataError(f"{name} is not a JSON object: write one object a line")
        _column(data, list(row), name, column)
        found.append((row[column], row[data.label_column], name))
    return found


def _column(data: Data, columns: Sequence[str], origin: str, column: str | None = None) -> str:
    """The input column; DataError if it or the label column is not among `columns`."""
    column = column or data.input_column
    if column is None:
        column = next((name for name in INPUT_COLUMNS if name in columns), None)
    available = ", ".join(columns)
    if column is None:
        raise DataError(
            f"{origin} has none of the columns {', '.join(INPUT_COLUMNS)}: "
            f"name the input in data.input_column (available: {available})"
        )
    for field, name in (("input_column", column), ("label_column", data.label_column)):
        if name not in columns:
            raise DataError(
                f"data.{field}={name!r} is no column of {origin} (available: {available})"
            )
    return column


def _cells(get: Callable[[int], Any], origin: str, column: str, base: Path) -> Callable[[int], Any]:
    """Cells as encoded images or texts: `{bytes, path}` becomes its bytes, or a path to read."""

    def cell(i: int) -> Any:
        value = get(i)
        if isinstance(value, dict):
            value = value.get("bytes") or (value.get("path") and base / value["path"])
        if not isinstance(value, bytes | str | Path):
            raise DataError(
                f"{origin}, row {i + 1}, holds no image or text in column {column!r}: name "
                "another data.input_column or remove the row"
            )
        return value

    return cell


def _origin(files: list[Path]) -> str:
    return str(files[0]) + (f" (and {len(files) - 1} more)" if len(files) > 1 else "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
