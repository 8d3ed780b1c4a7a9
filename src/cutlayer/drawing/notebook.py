"""What a notebook shows and takes: tables as HTML, and data frames."""

from __future__ import annotations

import html
import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cutlayer.drawing.tables import Column, column_cells
from cutlayer.errors import RunError, missing_package

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 20
"""Rows of a table that a cell's last line shows; a data frame has them all."""


def table_html(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str) -> str:
    """The first rows as an HTML table, with the cells that a terminal shows."""
    shown = rows[:MOST_ROWS]
    grid = zip(*(column_cells(shown, column) for column in columns), strict=True)
    align = ["left" if column.kind == "text" else "right" for column in columns]
    head = "".join(
        f'<th style="text-align:{side}">{html.escape(column.header)}</th>'
        for column, side in zip(columns, align, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:{side}">{html.escape(cell)}</td>'
            for cell, side in zip(line, align, strict=True)
        )
        + "</tr>"
        for line in grid
    )
    more = len(rows) - len(shown)
    said = f"{title}; {more:,} rows more" if more > 0 else title
    caption = f'<caption style="text-align:left">{html.escape(said)}</caption>' if said else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def paragraphs(sentences: Sequence[str]) -> str:
    """Each sentence as a paragraph of HTML."""
    return "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)


def data_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows as a pandas DataFrame. Raises RunError where pandas is not installed."""
    try:
        pandas = importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise RunError(f"to_pandas: {missing_package(error) or error}") from None
    frame: pd.DataFrame = pandas.DataFrame(list(rows))
    return frame


def in_notebook() -> bool:
    """Whether this code runs in the kernel of a notebook, where output is shown below a cell."""
    try:
        shell = importlib.import_module("IPython").get_ipython()
    except ModuleNotFoundError:
        return False
    return shell is not None and hasattr(shell, "kernel")
