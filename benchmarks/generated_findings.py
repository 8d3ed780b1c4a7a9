"""The sentences of the reports on generated data, computed from the rows of their tables."""

from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from fair_findings import surely
from told import told

PAIRS = {
    "genfl, full training": "fedavg",
    "genfv, full training": "genfv, full training, none generated",
    "genfl": "fedlora",
    "genfl, weight samples": "fedlora",
    "genfv": "genfv, none generated",
    "genfv, mix whole": "genfv, none generated",
    "sflora, generated": "sflora",
}
"""Lines with generated data, and the same without."""
CHOICES = {
    "genfv, mix whole": ("genfv", "drawing all classes and not those alone that the others lack"),
    "genfl, weight samples": (
        "genfl",
        "weighing the generated set by its number of images and not by half the mean EMD",
    ),
}
"""Lines that differ from another in one setting: from which, and in what."""


def findings(place: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What one table says, in the mean over its seeds. place: of what data it is."""
    gains = {row["line"]: mean(row["gain"]) for row in rows if row["gain"]}
    ranked = sorted(gains, key=lambda line: -gains[line])
    words = {row["line"]: told(row["gain"]) for row in rows if row["gain"]}
    up, down = (sum(sign * sure > 0 for sure, _ in words.values()) for sign in (1, -1))
    yield (
        f"{place}: points gained by generated data: "
        + ", ".join(f"`{line}` {words[line][1]}" for line in ranked)
        + f". {surely(up, down, len(words))}"
    )
    for line, (other, what) in CHOICES.items():
        if line in gains and other in gains:
            apart = gains[line] - gains[other]
            side = "more" if apart > 0 else "less"
            yield f"{place}: in the mean, {what} gains {abs(apart):.1f} points {side}."
    seconds = {row["line"]: mean(row["seconds"]) for row in rows}
    longer = max((seconds[line] - seconds[PAIRS[line]] for line in gains), key=abs)
    yield (
        f"{place}: generated data changes the virtual seconds of a line by {abs(longer):.0f} s at "
        "most."
    )


def where_it_hurts(place: str, row: dict[str, Any]) -> str | None:
    """One line where a seed is worse with generated data than without."""
    if min(row["gain"], default=0.0) >= 0:
        return None
    points = ", ".join(f"{one:+.1f}" for one in row["gain"])
    return f"- {place}, `{row['line']}`: {points} points, by seed"
