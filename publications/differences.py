"""How far lines of a paper's table lie apart, here and in the paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from cutlayer.drawing import tables
from told import told

Published = Mapping[str, Mapping[str, float]]

COLUMNS = (
    tables.Column("what", "what changes", "text"),
    tables.Column("where", "where", "text"),
    tables.Column("points", "points of accuracy", "text"),
    tables.Column("paper", "the paper's", "text"),
    tables.Column("bytes", "bytes (x)", "text"),
    tables.Column("seconds", "virtual time (x)", "text"),
)


def differences(
    lines: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    pairs: Sequence[Sequence[str]],
    published: Published,
) -> Iterator[str]:
    """A heading, a table and how to read it; nothing where no pair was trained.

    lines: of the paper's table, as make_tables.py makes them. pairs: labels of lines, the first of
    which is held against the second.
    """
    there = {line["line"]: line for line in lines}
    rows = [
        _row(there[ours], there[theirs], column, published)
        for column in columns
        for ours, theirs in pairs
        if all(column in there.get(label, {}) for label in (ours, theirs))
    ]
    if not rows:
        return
    shown = [column for column in COLUMNS if any(row[column.key] != "-" for row in rows)]
    yield "## Lines against each other"
    yield tables.markdown(rows, shown)
    said = (
        "The first line against the second, over the seeds that both have: points of accuracy in "
        "the mean (in parentheses the interval of 95 % by Student's t of the differences by seed, "
        "nothing corrected for the number of lines; a difference whose interval holds 0 is not "
        "told from 0), and how many times its bytes and virtual time of a round, in the mean, are "
        "those of the second."
    )
    if any(row["paper"] != "-" for row in rows):
        said += (
            " The paper's points: of the same column, or, where it has none, of the data in "
            "parentheses, divided alike."
        )
    yield said


def _row(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], column: str, published: Published
) -> dict[str, str]:
    by_seed = f"{column} by seed"
    return {
        "what": f"{ours['line']} for {theirs['line']}",
        "where": column,
        "points": _points(ours[by_seed], theirs[by_seed]),
        "paper": _stated(ours["line"], theirs["line"], column, published),
        "bytes": _ratio(ours, theirs, f"{column} bytes"),
        "seconds": _ratio(ours, theirs, f"{column} seconds"),
    }


def _points(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """The mean difference over the seeds that both lines have, and its interval."""
    points = [100 * (ours[seed] - theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if not points:
        return "-"
    return told(points)[1] if any(points) else "the same"


def _stated(ours: str, theirs: str, column: str, published: Published) -> str:
    """The paper's difference: of the column, or of other data that are divided among devices alike.

    A column's name is that of its data, a space, and how they are divided.
    """
    stated = {
        name: figures[ours] - figures[theirs]
        for name, figures in published.items()
        if {ours, theirs} <= figures.keys()
    }
    if column in stated:
        return f"{stated[column]:+.1f}"
    _, _, division = column.partition(" ")
    alike = [
        f"{points:+.1f} ({data})"
        for name, points in stated.items()
        for data, _, other in [name.partition(" ")]
        if other == division
    ]
    return ", ".join(alike) or "-"


def _ratio(ours: Mapping[str, Any], theirs: Mapping[str, Any], key: str) -> str:
    """The ratio of two means over the seeds that both lines have."""
    both = ours.get(key, {}).keys() & theirs.get(key, {}).keys()
    if not both:
        return "-"
    return f"{mean(ours[key][s] for s in both) / mean(theirs[key][s] for s in both):.2f}"
