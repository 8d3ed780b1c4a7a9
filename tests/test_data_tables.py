"""Tables are read in the dialect they are written in, their labels alike in every format."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.data.sources import load
from cutlayer.errors import DataError, JobError
from cutlayer.job import make_job
from cutlayer.settings.data import Data

ROWS = [("one", "a"), ("two", "b"), ("three", "a"), ("four", "b")]


def read(file: Path, content: str | bytes, **fields: Any) -> list[tuple[str, str]]:
    """The texts and classes of a file, all of them trained on."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    train, _ = load(Data(source="table", path=str(file), test_path=str(file), **fields), 0)
    assert isinstance(train.inputs, list)
    return [(text, train.classes[i]) for text, i in zip(train.inputs, train.labels, strict=True)]


def lines(rows: list[tuple[str, str]], delimiter: str = ",") -> str:
    return "".join(f"{text}{delimiter}{label}\n" for text, label in [("text", "label"), *rows])


def test_delimiter_and_encoding_are_settings(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", lines(ROWS, ";"), delimiter=";") == ROWS
    rows = [("caf\u00e9", "a"), ("th\u00e9", "b")]
    assert read(tmp_path / "b.csv", lines(rows).encode("cp1252"), encoding="cp1252") == rows
    assert read(tmp_path / "c.tsv", lines(rows, "\t").encode("utf-16")) == rows
    with pytest.raises(DataError, match=r"what stands between them in data\.delimiter"):
        read(tmp_path / "d.csv", lines(ROWS, ";"))
    with pytest.raises(DataError, match=r"cannot be read as utf-8 .* data\.encoding"):
        read(tmp_path / "e.csv", lines(rows).encode("cp1252"))
    with pytest.raises(JobError, match=r"data\.encoding: 'klingon' is no encoding"):
        make_job({"data": {"source": "table", "path": "x", "encoding": "klingon"}})
    with pytest.raises(JobError, match=r"data\.delimiter"):
        make_job({"data": {"source": "table", "path": "x", "delimiter": '"'}})


def test_quotes_of_a_tsv_are_plain_where_they_make_sense_only_so(tmp_path: Path) -> None:
    plain = [('" begins', "a"), ("x", "b"), ('and "ends"', "a"), ('" again', "b")]
    assert read(tmp_path / "a.tsv", lines(plain, "\t")) == plain
    quoted = 'text\tlabel\n"He said ""so"""\ta\n"two\nlines, and a\ttab"\tb\n'
    assert read(tmp_path / "b.tsv", quoted) == [
        ('He said "so"', "a"),
        ("two\nlines, and a\ttab", "b"),
    ]
    assert read(tmp_path / "c.tsv", quoted.replace("\n", "\r\n", 1))[0] == ('He said "so"', "a")


def test_rows_between_two_stray_quotes_never_vanish(tmp_path: Path) -> None:
    stray = [('" one', "a"), ("two", "b"), ('" three', "a"), ("four", "b")]
    with pytest.raises(DataError, match=r"data\.quotes=plain"):
        read(tmp_path / "a.csv", lines(stray))
    assert read(tmp_path / "a.csv", lines(stray), quotes="plain") == stray
    with pytest.raises(DataError, match=r"close its quotes"):
        read(tmp_path / "b.csv", 'text,label\n"one,a\ntwo,b\n')


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n\t\0\x85"), min_size=1),
        min_size=2,
        max_size=6,
    )
)
def test_a_tsv_never_loses_a_row(tmp_path_factory: pytest.TempPathFactory, texts: list) -> None:
    file = tmp_path_factory.getbasetemp() / "any.tsv"
    rows = [(text, "ab"[i % 2]) for i, text in enumerate(texts)]
    assert len(read(file, lines(rows, "\t"))) == len(rows)


def test_a_used_column_that_is_there_twice_is_refused_in_every_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv has the column 'text' 2 times"):
        read(tmp_path / "a.csv", "text,label,text\nx,1,y\n")
    with pytest.raises(DataError, match=r"a\.jsonl, line 1, has 'text' twice"):
        read(tmp_path / "a.jsonl", '{"text": "x", "text": "y", "label": 1}\n')
    columns = [pa.array(["x"]), pa.array(["y"]), pa.array(["1"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["text", "text", "label"]), tmp_path / "a.p")
    with pytest.raises(DataError, match=r"has the column 'text' 2 times"):
        load(Data(source="parquet", path=str(tmp_path / "a.p")), 0)
    read(tmp_path / "b.csv", "text,label,z,z\nx,1,,\ny,2,,\n")  # not used, no matter


@pytest.mark.parametrize(
    ("stored", "classes"),
    [
        ([1, 0], ("0", "1")),
        ([1.0, 0.0], ("0", "1")),
        (["1", "0.0"], ("0", "1")),
        ([" 1 ", "0"], ("0", "1")),
        ([Decimal("1"), Decimal("0.00")], ("0", "1")),
        ([True, False], ("false", "true")),
        (["True", "false "], ("false", "true")),
        ([" pos", "neg "], ("neg", "pos")),
        (["e\u0301", "b"], ("b", "\u00e9")),
        (["01", "1"], ("01", "1")),
    ],
)
def test_labels_are_the_same_classes_in_every_format(
    tmp_path: Path, stored: list, classes: tuple[str, ...]
) -> None:
    texts = ["x", "y"]
    table = pa.table({"text": texts, "label": stored})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text(
        lines([(t, str(s)) for t, s in zip(texts, stored, strict=True)])
    )
    plain = [float(one) if isinstance(one, Decimal) else one for one in stored]
    rows = [{"text": t, "label": s} for t, s in zip(texts, plain, strict=True)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source, name in (("parquet", "a.parquet"), ("table", "a.csv"), ("table", "a.jsonl")):
        path = str(tmp_path / name)
        train, _ = load(Data(source=source, path=path, test_path=path), 0)  # type: ignore[arg-type]
        assert set(train.classes) == set(classes), name


@pytest.mark.parametrize("value", [0.5, "0.5", "-1.25"])
def test_real_numbers_are_no_classes_in_any_format(tmp_path: Path, value: object) -> None:
    pq.write_table(pa.table({"text": ["x"], "label": [value]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="names no class"):
        load(Data(source="parquet", path=str(tmp_path / "a.parquet")), 0)
    with pytest.raises(DataError, match="names no class"):
        read(tmp_path / "a.csv", f"text,label\nx,{value}\n")
    with pytest.raises(DataError, match="names no class"):
        read(tmp_path / "a.jsonl", json.dumps({"text": "x", "label": value}) + "\n")


def test_half_a_surrogate_pair_is_mended_in_texts_and_refused_in_labels(tmp_path: Path) -> None:
    good = '{"text": "\\ud83d\\ude00", "label": 1}\n'
    rows = read(tmp_path / "a.jsonl", good + '{"text": "cut \\ud83d", "label": 0}\n')
    assert rows == [("\U0001f600", "1"), ("cut \ufffd", "0")]
    with pytest.raises(DataError, match=r"line 2, has the label .* cannot be printed"):
        read(tmp_path / "a.jsonl", good + '{"text": "x", "label": "\\ud83d"}\n')


def test_a_line_that_lacks_a_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2, has no 'label'"):
        read(tmp_path / "a.jsonl", '{"text": "x", "label": 1}\n{"text": "y"}\n')


@pytest.mark.parametrize(
    "kind", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_categories_and_arrows_views_are_texts_and_labels(tmp_path: Path, kind: Any) -> None:
    texts, labels = pa.array(["x", "y"]).cast(kind), pa.array(["b", "a"]).cast(kind)
    pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    train, _ = load(Data(source="parquet", path=path, test_path=path), 0)
    assert (train.inputs, train.classes, train.labels.tolist()) == (["x", "y"], ("a", "b"), [1, 0])
