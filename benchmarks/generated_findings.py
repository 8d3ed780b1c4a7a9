"""The sentences of the reports on generated data, computed from the rows of their tables."""

from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from cutlayer.reports.views.statistics import half_width

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
    told = {row["line"]: told_gain(row["gain"]) for row in rows if row["gain"]}
    up, down = (sum(sign * sure > 0 for sure, _ in told.values()) for sign in (1, -1))
    yield (
        f"{place}: with 95 % confidence {up} of {len(gains)} lines gain by generated data, and "
        f"{down} of {len(gains)} lose (points: "
        + ", ".join(f"`{line}` {told[line][1]}" for line in ranked)
        + ")."
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


def told_gain(points: Sequence[float]) -> tuple[int, str]:
    """Whether a gain is told from 0 (1, or -1 for a loss; 0: it is not), and the gain in words.

    points: of each seed; the interval is of 95 % by Student's t.
    """
    middle, half = mean(points), half_width(points, 0.95)
    if half is None:
        return 0, f"{middle:+.1f} (one seed)"
    sure = 1 if middle > half else -1 if middle < -half else 0
    words = f"{middle:+.1f} ({middle - half:+.1f} to {middle + half:+.1f}"
    return sure, words + (")" if sure else ", not told from 0)")


def where_it_hurts(place: str, row: dict[str, Any]) -> str | None:
    """One line where a seed is worse with generated data than without."""
    if min(row["gain"], default=0.0) >= 0:
        return None
    points = ", ".join(f"{one:+.1f}" for one in row["gain"])
    return f"- {place}, `{row['line']}`: {points} points, by seed"
