"""The sentences of a fair table, computed from its figures."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, median
from typing import Any

from cutlayer.reports.views.statistics import paired_interval
from fair_lines import Line

Cell = tuple[str, str]
Runs = dict[Cell, dict[int, Line]]
"""The runs of each allocation and rule, by seed."""
Tried = Sequence[tuple[Cell, float, float, float]]
"""Lines whose learning rate was tried beyond those of the table: that rate, the accuracy on
held-out samples with it, and with the line's own rate."""
RULES = {"averaged": "averaged", "shared": "shared", "in-turn": "in turn"}
ADAPTERS = {
    "averaged": "an averaged server adapter",
    "shared": "a shared server adapter",
    "in-turn": "a server adapter trained in turn",
}
RULE_PAIRS = (("shared", "averaged"), ("in-turn", "averaged"), ("in-turn", "shared"))
"""Rules, and those that they are held against."""
CHOOSE_CUTS = ("asfv", "auto")
"""Allocations that may choose another cut, with which the server trains other blocks: what they
change of accuracy is not what the allocation alone does."""
AFTER_CUT = "central, blocks after the cut"


def findings(
    found: Runs, probes: Mapping[int, Line], rates: Sequence[float], tried: Tried = ()
) -> Iterator[str]:
    """What the table says."""
    yield from of_rules(found)
    yield from of_allocations(found)
    yield from of_both(found)
    yield from of_probe(found, probes)
    yield from of_central(found)
    yield from of_serving(found)
    yield from of_rates(found, rates)
    yield from of_beyond(tried)


def in_short(found: Runs, probes: Mapping[int, Line]) -> Iterator[str]:
    """What a reader of another table has to know of this one."""
    yield from of_rules(found, [("in-turn", "averaged")])
    yield from of_both(found)
    yield from of_probe(found, probes)


def accuracy(runs: Mapping[int, Line]) -> dict[int, float]:
    return {seed: line["accuracy"] for seed, line in runs.items()}


def ratios(found: Runs, cell: Cell, key: str = "seconds") -> dict[int, float]:
    """Virtual seconds, or joules, over those of equal shares with the same rule, by seed."""
    equal = found.get(("equal", cell[1]), {}) if cell[1] else {}
    ours = found.get(cell, {})
    return {s: ours[s][key] / equal[s][key] for s in sorted(ours.keys() & equal.keys())}


def compared(found: Runs) -> Iterator[tuple[str, str, Cell, Cell]]:
    """Pairs of lines that differ in one thing: what it is, what stays, ours and theirs."""
    for rule, against in RULE_PAIRS:
        for allocation in dict.fromkeys(cell[0] for cell in found):
            ours, theirs = (allocation, rule), (allocation, against)
            if {ours, theirs} <= found.keys():
                yield f"{RULES[rule]} for {against}", f"`{allocation}`", ours, theirs
    for allocation in dict.fromkeys(cell[0] for cell in found if cell[1]):
        for rule, title in RULES.items():
            if allocation != "equal" and {(allocation, rule), ("equal", rule)} <= found.keys():
                yield f"`{allocation}` for `equal`", title, (allocation, rule), ("equal", rule)


def difference(found: Runs, ours: Cell, theirs: Cell) -> tuple[float, tuple[float, float] | None]:
    """Points of accuracy (mean over the seeds of both), and the interval; nan without a seed."""
    one, two = accuracy(found[ours]), accuracy(found[theirs])
    both = one.keys() & two.keys()
    points = 100 * mean(one[s] - two[s] for s in both) if both else float("nan")
    interval = paired_interval(one, two)
    return points, interval and (100 * interval[1], 100 * interval[2])


def is_sure(interval: tuple[float, float] | None) -> bool:
    """Whether a difference is told from 0."""
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def differences(found: Runs) -> Iterator[dict[str, Any]]:
    """A line for each pair that differs in one thing."""
    for what, where, ours, theirs in compared(found):
        points, interval = difference(found, ours, theirs)
        span = "one seed" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}"
        told = "" if is_sure(interval) else " (not told from 0)"
        yield {"what": what, "where": where, "points": f"{points:+.1f}", "interval": span + told}


def of_rules(found: Runs, pairs_of_rules: Sequence[tuple[str, str]] = RULE_PAIRS) -> Iterator[str]:
    """What a rule gives, with the allocation as it is."""
    for rule, against in pairs_of_rules:
        pairs = [pair for pair in compared(found) if (pair[2][1], pair[3][1]) == (rule, against)]
        if pairs:
            yield (
                f"With the same allocation, {ADAPTERS[rule]} in place of {ADAPTERS[against]} "
                f"changes accuracy by {spread(found, pairs, lambda pair: pair[1])}"
            )


def of_allocations(found: Runs) -> Iterator[str]:
    """What an allocation gives, with the rule as it is."""
    pairs = [pair for pair in compared(found) if pair[3][0] == "equal" and pair[2][0] != "equal"]
    for what, some in (
        ("an allocation in place of equal shares", kept(pairs)),
        (
            "an allocation (one that may choose another cut, and with it how many blocks are "
            "trained) in place of equal shares",
            [pair for pair in pairs if pair[2][0] in CHOOSE_CUTS],
        ),
    ):
        if some:
            yield (
                f"With the same server adapter, {what} changes accuracy by "
                f"{spread(found, some, lambda pair: f'`{pair[2][0]}`, {pair[1]}')}"
            )
    for key, what in (("seconds", "Virtual seconds of a run"), ("joules", "Joules of devices")):
        times: dict[str, list[float]] = {}
        for cell in found:
            if cell[0] != "equal" and (there := ratios(found, cell, key)):
                times.setdefault(cell[0], []).extend(there.values())
        parts = [
            f"`{name}` {middle_of(values)}"
            for name, values in sorted(times.items(), key=lambda item: median(item[1]))
        ]
        if parts:
            yield (
                f"{what} as a multiple of those with equal shares (median, and range over seeds "
                f"and server adapters): {', '.join(parts)}."
            )


def kept(
    pairs: Sequence[tuple[str, str, Cell, Cell]],
) -> list[tuple[str, str, Cell, Cell]]:
    """Those pairs of which both lines keep the cut."""
    return [pair for pair in pairs if not {pair[2][0], pair[3][0]} & {*CHOOSE_CUTS}]


def middle_of(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def spread(found: Runs, pairs: Sequence[tuple[str, str, Cell, Cell]], name: Any) -> str:
    """From the least to the largest difference, and in a second sentence how many are sure."""
    told = [
        (difference(found, ours, theirs), pair) for pair in pairs for *_, ours, theirs in [pair]
    ]
    least = min(told, key=lambda one: one[0][0])
    most = max(told, key=lambda one: one[0][0])
    up = sum(is_sure(one[1]) and one[0] > 0 for one, _ in told)
    down = sum(is_sure(one[1]) and one[0] < 0 for one, _ in told)
    return (
        f"{least[0][0]:+.1f} points ({name(least[1])}) to {most[0][0]:+.1f} points "
        f"({name(most[1])}). {surely(up, down, len(told))}"
    )


def surely(up: int, down: int, total: int) -> str:
    """One sentence on how many of some differences are told from 0."""
    if total == 1:
        told = f"is a {'gain' if up else 'loss'}" if up or down else "cannot be told from 0"
        return f"With 95 % confidence this difference {told}."
    of = f"of these {total} differences"
    if not up and not down:
        return f"With 95 % confidence none {of} can be told from 0."
    gains = {0: f"none {of} is a gain", 1: f"1 {of} is a gain"}.get(up, f"{up} {of} are gains")
    losses = {0: "none is a loss", 1: "1 is a loss"}.get(down, f"{down} are losses")
    return f"With 95 % confidence {gains}, and {losses}."


def of_lines(count: int, total: int, one: str, many: str) -> str:
    """How many of all lines do something: the verb for one line, and for several."""
    lines = "line" if total == 1 else "lines"
    return f"{count or 'none'} of {total} {lines} {one if count < 2 else many}"


def of_both(found: Runs) -> Iterator[str]:
    """Which of the two moves accuracy more, in the mean over the other."""
    whole = {
        cell: mean(accuracy(runs).values())
        for cell, runs in found.items()
        if cell[1] and cell[0] not in CHOOSE_CUTS
    }
    allocations, rules = (list(dict.fromkeys(cell[at] for cell in whole)) for at in (0, 1))
    if len(whole) < len(allocations) * len(rules) or min(len(allocations), len(rules)) < 2:
        return
    by_rule = {r: mean(whole[a, r] for a in allocations) for r in rules}
    by_allocation = {a: mean(whole[a, r] for r in rules) for a in allocations}
    rule_points = 100 * (max(by_rule.values()) - min(by_rule.values()))
    allocation_points = 100 * (max(by_allocation.values()) - min(by_allocation.values()))
    kinds = ["server adapter", "allocation"]
    more, less = kinds if rule_points > allocation_points else reversed(kinds)
    sure = dict.fromkeys(kinds, 0)
    for *_, ours, theirs in kept(list(compared(found))):
        kind = kinds[0] if ours[1] != theirs[1] else kinds[1]
        sure[kind] += is_sure(difference(found, ours, theirs)[1])
    if sure[more]:
        verdict = f"accuracy is decided more by the {more}"
    elif sure[less]:
        verdict = f"differences of {less} are told from 0, none of {more} is"
    else:
        verdict = "no difference of either kind is told from 0"
    yield (
        f"In the mean over allocations that keep the cut, the best server adapter "
        f"({RULES[top(by_rule)]}) lies {rule_points:.1f} points above the worst; in the mean over "
        f"server adapters, the best such allocation (`{top(by_allocation)}`) lies "
        f"{allocation_points:.1f} points above the worst: {verdict}."
    )


def top(values: Mapping[str, float]) -> str:
    return max(values, key=lambda name: values[name])


def of_probe(found: Runs, probes: Mapping[int, Line]) -> Iterator[str]:
    """What training adds to what it starts from."""
    inside = {cell: accuracy(runs) for cell, runs in found.items() if cell[1]}
    start = {seed: line["accuracy"] for seed, line in probes.items()}
    gains = {
        cell: mean(100 * (values[seed] - start[seed]) for seed in values.keys() & start.keys())
        for cell, values in inside.items()
        if values.keys() & start.keys()
    }
    if gains:
        best, worst = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
        above = sum(gain > 0 for gain in gains.values())
        yield (
            f"All lines start from a linear probe, for which nothing is sent: "
            f"{100 * mean(start.values()):.1f} %. Training changes that by "
            f"{gains[worst]:+.1f} points ({named(worst)}) to {gains[best]:+.1f} points "
            f"({named(best)}); {of_lines(above, len(gains), 'ends', 'end')} above where it began."
        )


def of_central(found: Runs) -> Iterator[str]:
    """How far the best line is from each central model, of lines that train no more blocks."""
    for cell, runs in found.items():
        if cell[1]:
            continue
        inside = {
            one: mean(accuracy(there).values())
            for one, there in found.items()
            if one[1] and not (cell[0] == AFTER_CUT and one[0] in CHOOSE_CUTS)
        }
        if inside:
            best, central = max(inside, key=inside.__getitem__), mean(accuracy(runs).values())
            side = "below" if inside[best] < central else "above"
            of = " that keeps the cut" if cell[0] == AFTER_CUT else ""
            yield (
                f"The best line{of} ({named(best)}: {100 * inside[best]:.1f} %) is "
                f"{100 * abs(inside[best] - central):.1f} points {side} training in one place "
                f"({cell[0]}: {100 * central:.1f} %)."
            )


def named(cell: Cell) -> str:
    return f"`{cell[0]}`, {RULES[cell[1]]}" if cell[1] else f"`{cell[0]}`"


def of_serving(found: Runs) -> Iterator[str]:
    """Where what is served is worse than what is exported."""
    lost = {
        cell: mean(line["accuracy"] - line["served"] for line in runs.values())
        for cell, runs in found.items()
        if cell[1]
    }
    if lost:
        worst = max(lost, key=lambda cell: lost[cell])
        few = sum(value <= 0.01 for value in lost.values())
        yield (
            f"Served through the cut, {of_lines(few, len(lost), 'loses', 'lose')} at most one "
            "point of the exported adapter's accuracy; the largest loss is "
            f"{100 * lost[worst]:.1f} points ({named(worst)})."
        )


def of_rates(found: Runs, rates: Sequence[float]) -> Iterator[str]:
    """Whether the best learning rates lie within those that were tried."""
    yield from of_edges([next(iter(runs.values()))["lr"] for runs in found.values()], rates)


def of_edges(chosen: Sequence[float], tried: Sequence[float]) -> Iterator[str]:
    """How many of the rates that were chosen are the smallest or the largest that was tried."""
    if not chosen or len(set(tried)) == 1:
        return
    low, high = chosen.count(min(tried)), chosen.count(max(tried))
    yield (
        f"With the smallest learning rate tried ({min(tried):g}) "
        f"{of_lines(low, len(chosen), 'does', 'do')} best, and with the largest ({max(tried):g}) "
        f"{of_lines(high, len(chosen), 'does', 'do')}: their best rate may lie beyond these."
        if low or high
        else f"All {len(chosen)} lines do best with a learning rate between the smallest and the "
        "largest tried."
    )


def of_beyond(tried: Tried) -> Iterator[str]:
    """What rates beyond those of the table gave, where some were tried."""
    if not tried:
        return
    better = of_lines(sum(other > own for *_, other, own in tried), len(tried), "does", "do")
    each = "; ".join(
        f"{named(cell)} at {rate:g}: {100 * other:.1f} % on held-out samples, "
        f"{100 * own:.1f} % at its own rate"
        for cell, rate, other, own in tried
    )
    yield f"Rates outside this range were tried too: {better} better with them ({each})."
