"""The sentences of benchmarks/reports/rate.md, computed from its figures."""

from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from cutlayer.reports.views.statistics import half_width

Line = dict[str, Any]
POINT = 0.01 + 1e-9
"""The loss of accuracy that still counts as none: one percentage point, and what rounding adds."""
VISIT_GOAL, TOTAL_GOAL, FLOAT_GOAL, WIRE_GOAL = 250, 1000, 0.85, 0.05


def findings(lines: Sequence[Line]) -> Iterator[str]:
    """Sentences on each data and cut that has float32 to compare with, and one on the goals."""
    places = dict.fromkeys((line["data"], line["cut"]) for line in lines)
    judged = []
    for data, cut in places:
        some = [line for line in lines if (line["data"], line["cut"]) == (data, cut)]
        reference = next((line for line in some if line["case"] == "float32"), None)
        if reference is None or len(some) == 1:
            continue
        judged += [line for line in some if line is not reference]
        yield of_place(f"{data}, cut {cut}", reference, some)
    if judged:
        # What is sent once is no visit's measure: its later visits send names.
        sent = [line for line in judged if "sent once" not in line["case"]]
        if sent:
            yield of_goal(sent, "visit_ratio", VISIT_GOAL, "a visit")
        yield of_goal(judged, "ten_ratio", TOTAL_GOAL, "over ten visits (reckoned)")
    yield from of_wire(lines)
    yield from of_training(lines)


def of_place(name: str, reference: Line, some: Sequence[Line]) -> str:
    """The fewest bytes whose accuracy is within a point of float32's, at one cut."""
    others = [line for line in some if line is not reference]
    near = [line for line in others if lost(line) <= POINT]
    start = f"{name}: float32 {100 * accuracy(reference):.1f} %"
    if not near:
        closest = min(others, key=lost)
        return (
            f"{start}; none of the others comes within a point, the nearest is {closest['case']}, "
            f"which {loses(lost(closest))}."
        )
    fewest = min(near, key=lambda line: line["total"])
    return (
        f"{start}; the fewest bytes within a point take {fewest['case']}, "
        f"{100 * accuracy(fewest):.1f} % ({100 * mean(fewest['through_cut']):.1f} % through the "
        f"cut), with {fewest['total_ratio']:,.0f} times fewer in total, {fewest['ten_ratio']:,.0f} "
        "over ten visits."
    )


def accuracy(line: Line) -> float:
    return mean(line["accuracy"])


def lost(line: Line) -> float:
    """What a line loses of float32's accuracy, in the mean over the seeds that both have."""
    return mean(line["lost"] or [accuracy(line)])


def loses(share: float) -> str:
    """What is lost or gained of float32's accuracy, in words."""
    points = 100 * share
    return f"loses {points:.1f} points" if points >= 0 else f"gains {-points:.1f} points"


def of_goal(judged: Sequence[Line], ratio: str, goal: int, what: str) -> str:
    """Whether the goal is reached within a point of float32, and where not, by how much."""
    start = f"The goal of {goal:,} times fewer bytes {what} within a point of float32 is"
    there = [line for line in judged if line[ratio] >= goal]
    if not there:
        most = max(judged, key=lambda line: line[ratio])
        return (
            f"{start} not reached: the most is {most[ratio]:,.0f} times, by {most['case']} "
            f"({of_what(most)}), which {loses(lost(most))}."
        )
    most = max(len(line["lost"] or []) for line in there)
    least = min((one for one in there if len(one["lost"] or []) == most), key=lost)
    verdict = "reached" if lost(least) <= POINT else "not reached"
    mean_of = " in the mean of the seeds" if most > 1 else ""
    through = lost(least) + accuracy(least) - mean(least["through_cut"])
    return (
        f"{start} {verdict}{mean_of}: {least['case']} ({of_what(least)}) takes "
        f"{least[ratio]:,.0f} times fewer and, as exported, {loses(lost(least))}. {shown(least)} "
        f"Served through the cut, where its errors fall on the test images too, it "
        f"{loses(through)}."
    )


def shown(line: Line) -> str:
    """Whether it is shown that a line loses at most a point, which a mean alone does not show."""
    if (half := half_width(line["lost"] or [])) is None:
        return "One seed does not show how far off that may be."
    low, high = lost(line) - half, lost(line) + half
    return (
        f"With 95 % confidence that loss lies between {100 * low:.1f} and {100 * high:.1f} points: "
        f"at most a point {'is' if high <= POINT else 'is not'} shown."
    )


def of_what(line: Line) -> str:
    """Where a line was measured, and with how many seeds."""
    seeds = len(line["seeds"])
    return f"{line['data']}, cut {line['cut']}, {seeds} seed{'s' if seeds > 1 else ''}"


def of_wire(lines: Sequence[Line]) -> Iterator[str]:
    """What encoding and decoding with klt takes of a training step, without and with spatial.

    Of the last round, in which what is sent once is only named: those lines have nothing to tell.
    """
    fitted = [
        line for line in lines if line["case"].startswith("klt") and "once" not in line["case"]
    ]
    for codec in ("klt", "klt and spatial"):
        some = [line for line in fitted if ("spatial" in line["case"]) == ("spatial" in codec)]
        if not some:
            continue
        most = max(some, key=lambda line: line["wire"])
        verdict = "within" if most["wire"] <= WIRE_GOAL else "above"
        yield (
            f"Encoding and decoding with {codec}, where a sample is sent at every visit, takes up "
            f"to {100 * most['wire']:.1f} % of a training step in {most['precision']} "
            f"({most['case']}, {most['data']}, cut {most['cut']}), {verdict} the goal of "
            f"{100 * WIRE_GOAL:.0f} %."
        )


def of_training(lines: Sequence[Line]) -> Iterator[str]:
    """How far training went, and how sure one can be."""
    for line in lines:
        if line["case"] == "float32" and line["data"] == "cifar10" and accuracy(line) < FLOAT_GOAL:
            yield (
                f"With so few images float32 stands at {100 * accuracy(line):.1f} % on "
                f"{line['data']} at cut {line['cut']}, below {100 * FLOAT_GOAL:.0f} %: differences "
                "may be others where training goes further."
            )
    few = sum(len(line["seeds"]) == 1 for line in lines)
    if few:
        yield (
            f"{few} of {len(lines)} points have one seed: differences below a point or so tell "
            "nothing."
        )
