"""Allocators, one file each: an allocator makes a solver's problem of what is known of a round, and
decisions of the solution.

An allocator is a function `solve(known: PlanningInput) -> RoundDecisions`; `find_allocator` finds
it by its file's name (`exact` is in the file of st-sflora, whose problem it solves).
"""

import importlib
from collections.abc import Callable

from cutlayer.own_code import load_own_function
from cutlayer.planning.known.planning_input import PlanningInput, RoundDecisions

Solve = Callable[[PlanningInput], RoundDecisions]

_FILES = {"st-sflora": "st_sflora:solve_as_published", "exact": "st_sflora:solve_exactly"}


def find_allocator(solver: str) -> Solve:
    """The allocator called `solver`, or the function at `package.module:FUNCTION`.

    Raises JobError when there is no such function.
    """
    if ":" in solver:
        own: Solve = load_own_function("method.allocation.solver", solver)
        return own
    file, _, name = _FILES.get(solver, f"{solver}:solve").partition(":")
    solve: Solve = getattr(importlib.import_module(f"{__name__}.{file}"), name)
    return solve
