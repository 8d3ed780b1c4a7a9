"""How reports put a difference that seeds show into words."""

from collections.abc import Sequence
from statistics import mean

from cutlayer.reports.views.statistics import half_width


def told(points: Sequence[float]) -> tuple[int, str]:
    """Whether a difference is told from 0, and the difference in words.

    points: of each seed. The first is 1 for a gain, -1 for a loss, 0 where 0 lies in the interval
    of 95 % by Student's t, or where one seed gives none.
    """
    middle, half = mean(points), half_width(points)
    if half is None:
        return 0, f"{middle:+.1f} (one seed)"
    sure = 1 if middle > half else -1 if middle < -half else 0
    words = f"{middle:+.1f} ({middle - half:+.1f} to {middle + half:+.1f}"
    return sure, words + (")" if sure else ", not told from 0)")
