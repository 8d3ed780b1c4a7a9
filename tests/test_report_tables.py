"""The terminal's and the report's table hold the same aligned cells, with units in the header."""

import io
import re

import pytest
from rich.console import Console

from cutlayer.drawing.tables import Column, Fitted, column_cells, markdown, render

COLUMNS = [
    Column("method", "method", "text"),
    Column("accuracy", "accuracy", "percent"),
    Column("up", "up a round", "bytes"),
    Column("flops", "device", "flops"),
    Column("ratio", "less than sflora", "ratio"),
    Column("rounds", "rounds", "count"),
]
ROWS = [
    {"method": "sflora", "accuracy": 0.8125, "up": 12_345_678_900, "flops": 2.5e9, "ratio": 1.0},
    {"method": "a|b [bold]", "accuracy": [0.7, 0.8], "up": 1_540_000, "rounds": 12},
    {"method": None, "accuracy": float("nan"), "up": 0, "ratio": 15.437, "rounds": 1200},
]


def test_markdown_has_units_aligned_numbers_and_escaped_bars():
    assert markdown(ROWS, COLUMNS) == (
        "| method      |        accuracy (%) | up a round (MB) | device (GFLOP) "
        "| less than sflora (x) | rounds |\n"
        "| ----------- | ------------------: | --------------: | -------------: "
        "| -------------------: | -----: |\n"
        "| sflora      |                81.2 |        12,345.7 |            2.5 "
        "|                  1.0 |      - |\n"
        "| a\\|b [bold] | 75.0 (70.0 to 80.0) |             1.5 |              - "
        "|                    - |     12 |\n"
        "| -           |                   - |             0.0 |              - "
        "|                 15.4 |  1,200 |\n"
    )


def test_rich_prints_the_same_cells():
    stream = io.StringIO()
    Console(file=stream, width=160, color_system=None).print(render(ROWS, COLUMNS, "Compared"))
    printed = stream.getvalue()
    assert "Compared" in printed
    assert "a|b [bold]" in printed  # no markup
    source = [line.replace("\\|", "!").strip("|") for line in markdown(ROWS, COLUMNS).splitlines()]
    words = [word for cell in source[0].split("|") for word in cell.split()]
    cells = [cell.strip().replace("!", "|") for line in source[2:] for cell in line.split("|")]
    for text in [*words, *cells]:  # headers break between words, cells do not break
        assert text in printed


def printed_at(width: int, table: Fitted) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(table)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 160])
def test_a_table_too_wide_for_a_terminal_goes_on_below(width: int) -> None:
    columns = [Column("name", "method", "text")]
    columns += [Column(key, f"{key} a round", "seconds") for key in "abcdef"]
    columns.append(Column("gone", "STE 1/s"))
    rows = [
        {"name": name, **{key: [0.123 * place, 1.0, 20.5] for place, key in enumerate("abcdef")}}
        for name in ("published", "ours")
    ]
    lines = printed_at(width, Fitted(rows, columns, "Seconds"))
    assert max(map(len, lines)) <= width
    whole = re.sub(r" +", " ", "\n".join(lines))
    assert whole.count("Seconds") == 1
    assert whole.count("published") == whole.count("ours") == whole.count("method")
    assert "STE" not in whole  # a column without values
    for cell in (cell for column in columns[:-1] for cell in column_cells(rows, column)):
        assert cell in whole
    assert (whole.count("method") == 1) == (width == 160)


def test_small_numbers_keep_two_digits_and_tiny_ones_three_decimals():
    column = [Column("x", "x")]
    last = [markdown([{"x": x}], column).split("|")[-2].strip() for x in (0.5, 0.042, 1e-6, 420.0)]
    assert last == ["0.50", "0.042", "0.000", "420"]


def test_seeds_that_agree_show_no_range():
    table = markdown([{"a": [0.5, 0.5]}], [Column("a", "a", "percent")])
    assert table.splitlines()[-1].split() == ["|", "50.0", "|"]
    assert "| - |" in " ".join(markdown([{"a": []}], [Column("a", "a", "percent")]).split())


def test_a_table_without_rows_is_its_header():
    assert markdown([], [Column("a", "abc")]) == "| abc |\n| --: |\n"
