"""A plan as a table: a row for each device; of a large fleet, the spread of each figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.drawing import tables
from cutlayer.drawing.tables import Column

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    Column("device", "device", "text"),
    Column("distance_m", "away m", "count"),
    Column("cut", "cut", "count"),
    Column("tokens", "tokens", "count"),
    Column("importance", "importance", "percent"),
    Column("bits", "bits", "count"),
    Column("precision", "computes in", "text"),
    Column("bandwidth_mhz", "MHz"),
    Column("power_mw", "mW", "count"),
    Column("megabit_s", "Mbit/s"),
    Column("sent", "up", "bytes"),
    Column("finish_s", "done", "seconds"),
    Column("late", "late", "text"),
    Column("joules", "J"),
)
MOST_SHOWN = 40
"""Devices beyond which a table shows how figures are spread, not each device."""

_PARTS = {"least": 0, "a tenth below": 10, "median": 50, "a tenth above": 90, "most": 100}
_WHAT = Column("device", "of the devices", "text")


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns that these rows need: "late" only if a device is late, the importance only if a
    device keeps fewer than all tokens, the precision only if devices may have several, bits with
    decimals if a fitted codec sends fractions of a bit.
    """
    late = any(row["late"] for row in rows)
    parts = any(row["bits"] is not None and row["bits"] % 1 for row in rows)
    several = any("precision" in row for row in rows)
    ranked = any((row["importance"] or 1.0) < 1.0 for row in rows)
    shown = {"late": late, "importance": ranked, "precision": several}
    columns = [column for column in COLUMNS if shown.get(column.key, True)]
    return [replace(c, kind="number") if c.key == "bits" and parts else c for c in columns]


def device_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """A row for each device, for a terminal of 80 columns."""
    return tables.render(rows, columns_of(rows), title)


def spread_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The least, the median, the most and the outer tenths of each figure, for a terminal."""
    return tables.render(spread_rows(rows), spread_columns(rows), f"{title}: {len(rows):,} devices")


def spread_columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns of `spread_rows`."""
    return [_WHAT, *(c for c in columns_of(rows) if c.kind != "text")]


def spread_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for the least, the lower tenth, the median, the upper tenth and the most; each figure
    is sorted by itself.
    """
    found: dict[str, dict[str, Any]] = {part: {"device": part} for part in _PARTS}
    for column in spread_columns(rows)[1:]:
        values = [row[column.key] for row in rows if row[column.key] is not None]
        if values:
            # "nearest" takes one device's value, since no mean is possible where some are
            # infinite (a finish that never comes).
            spread = np.percentile(
                np.array(values, dtype=float), [*_PARTS.values()], method="nearest"
            )
            for part, value in zip(_PARTS, spread.tolist(), strict=True):
                found[part][column.key] = value
    return list(found.values())
