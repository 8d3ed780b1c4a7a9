"""Whether two methods differ or only their seeds do: Student's t, paired or Welch's, and Holm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, variance

PAIRED, WELCH = "paired t", "Welch's t"
LEAST = 3
"""Seeds below which nothing is said: two give a spread that is itself a guess."""


def compare_means(
    ours: Mapping[int, float], theirs: Mapping[int, float]
) -> tuple[float, str] | None:
    """The two-sided p of equal means, and the test; None with fewer than three seeds.

    ours, theirs: a value by seed. A seed fixes data, devices and world, so where three or more
    seeds are in both, their differences are tested (paired t); else Welch's t.
    """
    both = sorted(ours.keys() & theirs.keys())
    if len(both) >= LEAST:
        return _paired([ours[seed] - theirs[seed] for seed in both]), PAIRED
    if min(len(ours), len(theirs)) < LEAST:
        return None
    return _welch(list(ours.values()), list(theirs.values())), WELCH


def against_best(
    values: Sequence[Mapping[int, float]],
) -> tuple[int, dict[int, tuple[float, str]]]:
    """The place of the line with the highest mean, and how surely each other is lower.

    values: of each line a value by seed; of one at least. By place the p of equal means, adjusted
    for their number (Holm), and the test; lines without enough seeds are not among them.
    """
    means = [mean(found.values()) if found else -math.inf for found in values]
    best = max(range(len(values)), key=lambda place: means[place])
    tests = {
        place: test
        for place, found in enumerate(values)
        if place != best and (test := compare_means(found, values[best])) is not None
    }
    adjusted = holm([p for p, _ in tests.values()])
    return best, {
        place: (p, name) for (place, (_, name)), p in zip(tests.items(), adjusted, strict=True)
    }


def paired_interval(
    ours: Mapping[int, float], theirs: Mapping[int, float], confidence: float = 0.95
) -> tuple[float, float, float] | None:
    """The mean of ours - theirs over the seeds that both have, and where it lies (low, high).

    By Student's t of the differences, taken to be about normal: mean +- t s / sqrt(n) with n - 1
    degrees of freedom. None with fewer than two such seeds.
    """
    both = sorted(ours.keys() & theirs.keys())
    if len(both) < 2:
        return None
    differences = [ours[seed] - theirs[seed] for seed in both]
    middle, half = mean(differences), half_width(differences, confidence)
    assert half is not None  # there are two differences or more
    return middle, middle - half, middle + half


def half_width(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """How far the mean of `values` may be off to either side, by Student's t: t s / sqrt(n).

    None with fewer than two values.
    """
    if len(values) < 2:
        return None
    freedom = len(values) - 1
    return _quantile(1 - confidence, freedom) * math.sqrt(variance(values) / len(values))


def holm(values: Sequence[float]) -> list[float]:
    """p values adjusted for being several (Holm 1979), in the order given."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = largest
    return adjusted


def two_sided(t: float, freedom: float) -> float:
    """The probability of a |t| at least as large under Student's t with `freedom` degrees."""
    if math.isinf(t):
        return 0.0
    return _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _quantile(p: float, freedom: float) -> float:
    """The t whose two-sided probability is p, by bisection."""
    low, high = 0.0, 1.0
    while two_sided(high, freedom) > p:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, freedom) > p else (low, middle)
    return high


def _paired(differences: Sequence[float]) -> float:
    spread = variance(differences)
    if spread == 0:
        return 1.0 if mean(differences) == 0 else 0.0
    t = mean(differences) / math.sqrt(spread / len(differences))
    return two_sided(t, len(differences) - 1)


def _welch(ours: Sequence[float], theirs: Sequence[float]) -> float:
    a, b = variance(ours) / len(ours), variance(theirs) / len(theirs)
    if a + b == 0:
        return 1.0 if mean(ours) == mean(theirs) else 0.0
    freedom = (a + b) ** 2 / (a**2 / (len(ours) - 1) + b**2 / (len(theirs) - 1))
    return two_sided((mean(ours) - mean(theirs)) / math.sqrt(a + b), freedom)


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by Lentz's continued fraction."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, its mirror does not
        return 1 - _beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    c, d = 1.0, 1.0 / _away(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 300):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for numerator in (even, odd):
            d = 1.0 / _away(1 + numerator * d)
            c = _away(1 + numerator / c)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction / a


def _away(value: float) -> float:
    """`value`, or something tiny where it is 0 and would be divided by."""
    return value if abs(value) > 1e-300 else 1e-300
