"""Allocators put to a job, one file each: from what is known to a problem, and to decisions.

`solve(now: PlanningInput) -> RoundDecisions` is all there is to one.
"""

import importlib
from collections.abc import Callable

from cutlayer.errors import JobError
from cutlayer.planning.known.planning_input import PlanningInput, RoundDecisions

Solve = Callable[[PlanningInput], RoundDecisions]

_FILES = {"st-sflora": "st_sflora:solve_as_published", "exact": "st_sflora:solve_exactly"}


def find_allocator(solver: str) -> Solve:
    """The allocator called `solver`, or the function at `package.module:FUNCTION`.

    Raises JobError when there is no such function.
    """
    own = ":" in solver
    file, _, name = (solver if own else _FILES.get(solver, f"{solver}:solve")).partition(":")
    try:
        module = importlib.import_module(file if own else f"{__name__}.{file}")
        solve: Solve = getattr(module, name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise JobError(f"method.allocation.solver: cannot import {solver!r} ({error})") from None
    if not callable(solve):
        raise JobError(f"method.allocation.solver: {solver!r} is not a function")
    return solve
