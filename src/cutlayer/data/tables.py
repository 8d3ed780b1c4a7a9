"""Rows of columns: parquet, Hugging Face datasets, and CSV, TSV or JSON-lines files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cutlayer.data import delimited, images
from cutlayer.data.below import files_below
from cutlayer.data.passages import EVERY, passage_columns, passage_of
from cutlayer.data.rows import Rows
from cutlayer.data.source_settings import SourceSettings
from cutlayer.data.splits import Split, choose, split_of_path
from cutlayer.data.spool import Spool
from cutlayer.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

INPUT_COLUMNS = (
    "image", "img", "text", "sentence", "image_path", "file_name", "filename", "path", "file",
)  # fmt: skip
"""Names of the input column, tried in this order when data.input_column is not given."""


def existing(path: str | None, field: str) -> Path:
    """`path` as a Path; DataError if nothing is there."""
    found = Path(path or "").expanduser()
    if not path or not found.exists():
        raise DataError(f"{field}={path!r} does not exist: name a file or folder that does")
    return found


def parquet(data: SourceSettings) -> tuple[Rows, Rows | None]:
    """Train and test rows of parquet files: images (`{bytes, path}`, bytes or paths) or texts."""
    return _splits(data, (".parquet",), _parquet_rows)


def texts(data: SourceSettings) -> tuple[Rows, Rows | None]:
    """Train and test rows of CSV, TSV or JSON-lines files: texts or paths of images, and labels."""
    return _splits(data, delimited.SUFFIXES, _text_rows)


def hub(dataset: Any, data: SourceSettings, origin: str, base: Path) -> Rows:
    """Rows of one `datasets.Dataset`; images are decoded here, not there."""
    import datasets

    spoken = passage_columns(data, dataset.column_names, origin)
    if spoken is not None:
        wanted = _with_labels(spoken, dataset.column_names, data)
        columns = {name: list(dataset[name]) for name in wanted}
        return _of_passages(origin, columns, spoken, data)
    column = _column(data, dataset.column_names, origin)
    names = getattr(dataset.features[data.label_column], "names", None)
    feature = dataset.features[column]
    if isinstance(feature, datasets.Image):
        dataset = dataset.cast_column(column, datasets.Image(decode=False))
    inputs = dataset.select_columns([column])
    labels = list(dataset[data.label_column])
    if getattr(feature, "dtype", None) in ("string", "large_string", "string_view"):
        values = list(dataset[column])
        return _of_texts(origin, labels, values, [base] * len(values), names and tuple(names))
    return Rows(
        origin,
        labels,
        _cells(lambda i: inputs[i][column], origin, column, base),
        names=names and tuple(names),
    )


def _splits(
    data: SourceSettings,
    suffixes: tuple[str, ...],
    read: Callable[[list[Path], SourceSettings], Rows],
) -> tuple[Rows, Rows | None]:
    """Train and test rows of a file, or of a folder whose files or subfolders name their splits."""
    path = existing(data.path, "data.path")
    train_files, test_files, notes = [path], list[Path](), tuple[str, ...]()
    if path.is_dir():
        files: dict[Split | None, list[Path]] = {}
        for file in _files(path, suffixes, "data.path"):
            files.setdefault(split_of_path(file.relative_to(path)), []).append(file)
        chosen = choose(files, f"data.path={str(path)!r}", data.test_path is not None)
        train_files, test_files, notes = chosen.train, chosen.test, chosen.notes
    if data.test_path is not None:
        test = existing(data.test_path, "data.test_path")
        test_files = _files(test, suffixes, "data.test_path") if test.is_dir() else [test]
    train = read(train_files, data)
    train = replace(train, notes=notes + train.notes)
    return train, read(test_files, data) if test_files else None


def _files(folder: Path, suffixes: tuple[str, ...], field: str) -> list[Path]:
    found = [file for file in files_below(folder) if file.suffix.lower() in suffixes]
    if not found:
        raise DataError(f"{field}={str(folder)!r} holds no {' or '.join(suffixes)} file")
    return found


def _parquet_rows(files: list[Path], data: SourceSettings) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet

    origin = _origin(files)
    try:
        columns = pa.parquet.read_schema(files[0]).names
        spoken = passage_columns(data, columns, origin)
        if spoken is not None:
            wanted = _with_labels(spoken, columns, data)
            read = pa.parquet.read_table(files, columns=wanted)
            return _of_passages(origin, read.to_pydict(), spoken, data)
        column = _column(data, columns, origin)
        table = pa.parquet.read_table(files, columns=[data.label_column])
        labels = _decoded(table[data.label_column]).to_pylist()
        names = _parquet_names(table.schema, data.label_column)
        base = files[0].parent
        if _is_text(pa.parquet.read_schema(files[0]).field(column).type):
            values = _decoded(pa.parquet.read_table(files, columns=[column])[column]).to_pylist()
            return _of_texts(origin, labels, values, [base] * len(values), names)
        stored = Spool(_streamed(files, column))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{origin} cannot be read as parquet ({_first_line(error)}): replace the file"
        ) from None
    return Rows(origin, labels, _cells(stored.__getitem__, origin, column, base), names=names)


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_one(kind) for is_one in texts)


def _streamed(files: list[Path], column: str) -> Iterator[Any]:
    """The values of a column of parquet files, read a few at a time."""
    import pyarrow.parquet

    for file in files:
        with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as table:
            for batch in table.iter_batches(64, columns=[column], use_threads=False):
                yield from batch.column(column).to_pylist()


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values of a column; Arrow's dictionary and view types become plain ones."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        return _decoded(column.cast(kind.value_type))
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_binary_view(kind):
        return column.cast(pa.large_binary())
    return column


def _parquet_names(schema: pa.Schema, label_column: str) -> tuple[str, ...] | None:
    """The class names that Hugging Face datasets writes beside the data, if any."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _text_rows(files: list[Path], data: SourceSettings) -> Rows:
    labels, values, names, notes = list[Any](), list[Any](), list[str](), list[str]()
    bases: list[Path] = []
    for file in files:
        found = delimited.read(file, data)
        if not found.rows:
            continue
        spoken = passage_columns(data, found.columns, str(file))
        if spoken is not None:
            return _spoken_rows(files, data)
        column = _column(data, found.columns, str(file))
        at, label_at = found.columns.index(column), found.columns.index(data.label_column)
        for row, name in zip(found.rows, found.names, strict=True):
            for place, wanted in ((at, column), (label_at, data.label_column)):
                if row[place] is delimited.ABSENT:
                    raise DataError(f"{name} has no {wanted!r}: add it or remove the line")
            value = row[at]
            values.append(value.get("path", value) if isinstance(value, dict) else value)
            labels.append(row[label_at])
        names += found.names
        bases += [file.parent] * len(found.rows)
        notes += [found.note] if found.note else []
    return _of_texts(_origin(files), labels, values, bases, None, names, tuple(notes))


def _spoken_rows(files: list[Path], data: SourceSettings) -> Rows:
    """Rows of passages in CSV, TSV or JSON-lines files."""
    columns: dict[str, list[Any]] = {}
    names, notes = list[str](), list[str]()
    spoken: tuple[str, ...] = ()
    for file in files:
        found = delimited.read(file, data)
        if not found.rows:
            continue
        here = passage_columns(data, found.columns, str(file))
        if here is None or (spoken and here != spoken):
            raise DataError(f"{file} has other columns than {files[0]}: give both the same")
        spoken = here
        for column in _with_labels(spoken, found.columns, data):
            at = found.columns.index(column)
            values = [row[at] for row in found.rows]
            if delimited.ABSENT in values:
                name = found.names[values.index(delimited.ABSENT)]
                raise DataError(f"{name} has no {column!r}: add it or remove the line")
            columns.setdefault(column, []).extend(values)
        names += found.names
        notes += [found.note] if found.note else []
    return _of_passages(_origin(files), columns, spoken, data, names, tuple(notes))


def _with_labels(
    spoken: tuple[str, ...], columns: Sequence[str], data: SourceSettings
) -> list[str]:
    """The columns of passages, and the label column if there is one."""
    return [*spoken, *([data.label_column] if data.label_column in columns else [])]


def _of_passages(
    origin: str,
    columns: dict[str, list[Any]],
    spoken: tuple[str, ...],
    data: SourceSettings,
    called: Sequence[str] | None = None,
    notes: tuple[str, ...] = (),
) -> Rows:
    """Rows of passages, made of the columns `spoken`; without labels, all are of one class."""
    count = len(columns[spoken[0]]) if columns else 0
    labels = columns.get(data.label_column, [EVERY] * count)
    if len(labels) != count:
        raise DataError(
            f"{origin} has {data.label_column!r} in some files only: add it to all, or name "
            "another data.label_column"
        )
    name = called.__getitem__ if called else (lambda i: f"{origin}, row {i + 1},")
    passages = [
        passage_of(spoken, [columns[column][i] for column in spoken], name(i), data.separator)
        for i in range(count)
    ]
    return Rows(
        origin,
        labels,
        passages.__getitem__,
        True,
        called=called.__getitem__ if called else None,
        notes=notes,
        passages=True,
    )


def _of_texts(
    origin: str,
    labels: Sequence[Any],
    values: Sequence[Any],
    bases: Sequence[Path],
    names: tuple[str, ...] | None,
    called: Sequence[str] | None = None,
    notes: tuple[str, ...] = (),
) -> Rows:
    """Rows of texts, or of images if every text is the path of an image.

    bases: for each row, the folder that a relative path starts from.
    """
    known = images.suffixes()
    paths = bool(values) and all(
        isinstance(v, str) and "\n" not in v and PurePosixPath(v).suffix.lower() in known
        for v in values
    )

    def image(i: int) -> Path:
        path: Path = bases[i] / values[i]
        # The table may come from Windows, with backslashes in its paths.
        return path if path.exists() else bases[i] / values[i].replace("\\", "/")

    return Rows(
        origin,
        labels,
        image if paths else values.__getitem__,
        not paths,
        names,
        called=called.__getitem__ if called else None,
        notes=notes,
    )


def _column(data: SourceSettings, columns: Sequence[str], origin: str) -> str:
    """The input column; DataError unless it and the label column are there exactly once."""
    column = data.input_column
    if column is None:
        column = next((name for name in INPUT_COLUMNS if name in columns), None)
    available = ", ".join(columns)
    if column is None:
        apart = "" if len(columns) > 1 else ", or what stands between them in data.delimiter"
        raise DataError(
            f"{origin} has none of the columns {', '.join(INPUT_COLUMNS)}: "
            f"name the input in data.input_column{apart} (available: {available})"
        )
    for field, name in (("input_column", column), ("label_column", data.label_column)):
        if name not in columns:
            raise DataError(
                f"data.{field}={name!r} is no column of {origin} (available: {available})"
            )
        if list(columns).count(name) > 1:
            raise DataError(
                f"{origin} has the column {name!r} {list(columns).count(name)} times: rename or "
                "remove all but one"
            )
    return column


def _cells(get: Callable[[int], Any], origin: str, column: str, base: Path) -> Callable[[int], Any]:
    """Cells as encoded images: `{bytes, path}` becomes its bytes, or a path to read."""

    def cell(i: int) -> Any:
        value = get(i)
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            value = base / value
        if not isinstance(value, bytes | Path):
            raise DataError(
                f"{origin}, row {i + 1}, holds no image in column {column!r}: name "
                "another data.input_column or remove the row"
            )
        return value

    return cell


def _origin(files: list[Path]) -> str:
    return str(files[0]) + (f" (and {len(files) - 1} more)" if len(files) > 1 else "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
