"""The one sentence of a comparison: which line is the most accurate, by how much, how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from cutlayer.reports.views.statistics import LEAST, against_best, paired_interval

DIFFER_BELOW = 0.05
"""The p value below which two lines are told apart."""


def finding(lines: Sequence[tuple[str, Mapping[int, float]]]) -> str:
    """What came out of a comparison, computed from its accuracies; "" for fewer than two lines.

    lines: of each its label and its accuracies as fractions, by seed. The line with the highest
    mean is held against all others, as in the table: two-sided t-tests with p adjusted for their
    number (Holm); the interval of the difference is that of the paired seeds.
    """
    measured = [(label, found) for label, found in lines if found]
    if len(measured) < 2:
        return ""
    measured.sort(key=lambda line: -mean(line[1].values()))
    _, tests = against_best([found for _, found in measured])
    (best, first), *others = measured
    second, theirs = others[0]
    ahead = 100 * (mean(first.values()) - mean(theirs.values()))
    said = f"{best} has the highest accuracy, {100 * mean(first.values()):.1f} %"
    if len(first) > 1:
        said += f" (mean of {len(first)} seeds)"
    if not ahead:
        return f"{said}, and so has {second}."
    said += f", {ahead:.1f} points above {second}"
    interval = paired_interval(first, theirs)
    if interval is not None:
        middle, low, high = (100 * value for value in interval)
        if first.keys() == theirs.keys():
            said += f" (95 % interval of the difference {low:.1f} to {high:.1f})"
        else:
            both = len(first.keys() & theirs.keys())
            said += (
                f" (over the {both} seeds that both have {middle:.1f}, "
                f"95 % interval {low:.1f} to {high:.1f})"
            )
    if len(tests) < len(others):
        return f"{said}. Fewer than {LEAST} seeds do not say whether the order is one of chance."
    ps = [p for p, _ in tests.values()]
    alike = [label for (label, _), p in zip(others, ps, strict=True) if p >= DIFFER_BELOW]
    if not alike:
        return f"{said}. The seeds tell it apart from every other (largest p {_p(max(ps))})."
    return f"{said}. The seeds do not tell it apart from {_listed(alike)}."


def _p(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.2g}"


def _listed(labels: Sequence[str]) -> str:
    """At most four labels in words."""
    shown = list(labels) if len(labels) <= 4 else [*labels[:3], f"{len(labels) - 3} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
