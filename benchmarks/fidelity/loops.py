"""How many loops the alternation takes, and how often it stalls or cannot start."""

from collections import Counter
from typing import Any

import numpy as np
from benchmarks.fidelity import setting
from benchmarks.fidelity.levers import most_that_fit
from benchmarks.fidelity.page import Claim, Section, table

from cutlayer.allocate import st_sflora
from cutlayer.allocate.radio_math import Floats
from cutlayer.allocate.token_problem import obstacles

DRAWS = 100
TIGHT = {"energy_max_j": 0.05, "stay_max_s": 30.0}
STARTS = {
    "K_min": lambda p: p.tokens_min,
    "all that fit": most_that_fit,
    "N / 2": lambda p: p.tokens_max // 2,
    "N": lambda p: p.tokens_max,
}
ORDERS: dict[str, st_sflora.Order] = {
    "paper's": "power-bandwidth-tokens",
    "tokens before bandwidth": "power-tokens-bandwidth",
}


def section(rows: Floats) -> Section:
    """Every start and order, in the loose setting and in a tight one."""
    lines = [
        _line(rows, name, changes, order, start)
        for name, changes in (("loose", {}), ("tight", TIGHT))
        for order in ORDERS
        for start in STARTS
    ]
    feasible = [loops for line in lines for loops in line["loops"]]
    longest = max(feasible)
    slow = sum(loops >= 5 for loops in feasible)
    slow_from = sorted(
        {f"{x['setting']}, from {x['start']}" for x in lines if max(x["loops"], default=0) >= 5}
    )
    published = [line for line in lines if line["order"] == "paper's"]
    ended = sum(len(line["loops"]) for line in published)
    stalled = sum(line["stalled"] for line in published)
    verdict = "does not hold" if 2 * slow > len(feasible) else "mostly holds" if slow else "holds"
    claims = (
        Claim(
            "the alternation settles in a few loops",
            "fewer than 5",
            f"{verdict}: {len(feasible) - slow} of "
            f"{len(feasible)} runs with a feasible start; the longest took {longest}",
            "the last loop, which finds nothing to change, is counted"
            + (f"; the longer ones: {', '.join(slow_from)}" if slow_from else ""),
        ),
        Claim(
            "what it settles on",
            "no optimality claimed",
            f"in the paper's order {stalled} of {ended} ended where their tokens started",
            "the bandwidth step leaves each device just the rate that its present tokens need",
        ),
    )
    columns = (
        ("setting", "setting", "text"),
        ("order", "order", "text"),
        ("start", "start", "text"),
        ("solvable", "P0 solvable", "count"),
        ("infeasible", "start infeasible", "count"),
        ("stalled", "stalled", "count"),
        ("settled", "settled elsewhere", "count"),
        ("spread", "loops: draws", "text"),
    )
    tight = f"E_max = {TIGHT['energy_max_j']:g} J and t_bar = {TIGHT['stay_max_s']:g} s"
    return Section(
        "Loops of the alternation",
        f"{DRAWS} draws of the world. *Loose*: E_max = {setting.ENERGY_MAX_J:g} J and t_bar = "
        f"{setting.STAY_MAX_S:g} s; *tight*: {tight}. A start is infeasible if some step has no "
        "solution, although P0 has.",
        claims,
        table(lines, *columns),
    )


def _line(
    rows: Floats, name: str, changes: dict[str, float], order: str, start: str
) -> dict[str, Any]:
    status: Counter[str] = Counter()
    loops = []
    for seed in range(DRAWS):
        problem, _ = setting.problem(seed, rows, **changes)
        if obstacles(problem):
            continue
        ended = st_sflora.solve(problem, start=STARTS[start](problem), order=ORDERS[order])
        status[ended.status] += 1
        if ended.plan is not None:
            loops.append(ended.loops)
    counts = np.bincount(loops) if loops else []
    return {
        "setting": name,
        "order": order,
        "start": start,
        "solvable": sum(status.values()),
        "infeasible": status["infeasible"],
        "stalled": status["stalled"],
        "settled": status["settled"] + status["loop limit"],
        "loops": loops,
        "spread": ", ".join(f"{n}: {count}" for n, count in enumerate(counts) if count) or "-",
    }
