"""What users compare methods by: quality within a budget, and cost to a target.

Two of the three protocols of EdgeFlowerTune (arXiv 2605.08636), computed from the rounds of
finished runs; the third, robustness, is in drop_outs.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cutlayer.drawing.curves import Amount, Curve, curve_of
from cutlayer.drawing.tables import Column
from cutlayer.errors import JobError
from cutlayer.rounds.result import Result
from cutlayer.settings.units import in_own_unit

Budgets = Mapping[Amount, float]
"""How much may be spent, by what: megabytes (1e6 bytes, both directions), seconds, joules."""

_UNITS: Mapping[Amount, tuple[str, float, str]] = {
    "megabytes": ("_bytes", 1e6, "MB"),
    "seconds": ("_s", 1.0, "s"),
    "joules": ("_j", 1.0, "J"),
}
"""By amount: how the name of a field in its unit ends, how many of those it is, and its sign."""

_ENDS = {"megabytes": "bytes", "seconds": "s", "joules": "j"}
"""The end of an amount's key in a row."""

NOTES = """\
within: the highest accuracy measured before more than that was spent, in both directions and by all
devices together; "-" where a seed was not yet tested by then.
to: what was spent when that accuracy was first measured; "-" where a seed never reached it.
"""


@dataclass(frozen=True)
class Protocols:
    """What a comparison is to tell.

    target: an accuracy as a fraction; None: the highest that every run reached. budgets: what may
    be spent; empty: of each amount the least that a run spent in all.
    """

    target: float | None = None
    budgets: Budgets = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.target is not None and not 0 <= self.target <= 1:
            raise JobError(
                f"--target: {self.target:g} is no accuracy: give a fraction from 0 to 1, as in 0.7"
            )
        for amount, value in self.budgets.items():
            if amount not in _UNITS or not 0 < value < math.inf:
                raise JobError(
                    f"--budget: {value!r} {amount} is none: give megabytes, seconds or joules "
                    "above 0"
                )

    def settled(self, results: Sequence[Result]) -> Protocols:
        """With what the runs themselves say where nothing was asked for."""
        curves = [curve_of(result.rows) for result in results]
        target = self.target
        if target is None:
            target = min(max(curve.accuracy) for curve in curves)
        return Protocols(target, self.budgets or _least_spent(curves))


def parse_budgets(texts: Sequence[str]) -> dict[Amount, float]:
    """Budgets such as `5 MB`, `2 min` and `100 J`. Raises JobError."""
    found: dict[Amount, float] = {}
    for text in texts:
        amount, value = _parse_budget(text)
        if amount in found:
            raise JobError(f"--budget: {text!r} is a second one in {amount}: give one of each")
        found[amount] = value
    return found


def _parse_budget(text: str) -> tuple[Amount, float]:
    for amount, (end, size, _) in _UNITS.items():
        try:
            value = in_own_unit(f"budget{end}", text)
        except ValueError:
            continue
        if not isinstance(value, str):
            return amount, value / size
    raise JobError(
        f"--budget: {text!r} is no amount: give bytes, seconds or joules, as in "
        "'5 MB, 2 min, 100 J'"
    )


def _least_spent(curves: Sequence[Curve]) -> dict[Amount, float]:
    """Of each amount that every run spent, the least that one spent in all."""
    found: dict[Amount, float] = {}
    for amount in _UNITS:
        totals = [getattr(curve, amount)[-1] for curve in curves]
        if min(totals) > 0:
            found[amount] = min(totals)
    return found


def measure(result: Result, protocols: Protocols) -> dict[str, float | None]:
    """Accuracy within each budget, and cost to the target, of one run; protocols: settled."""
    curve, target = curve_of(result.rows), protocols.target
    assert target is not None
    return {
        **{
            f"within_{_ENDS[amount]}": _best(curve, budget, amount)
            for amount, budget in protocols.budgets.items()
        },
        **{f"to_target_{_ENDS[amount]}": _cost(curve, target, amount) for amount in _UNITS},
    }


def _best(curve: Curve, budget: float, amount: Amount) -> float | None:
    """None also of seconds and joules where the run was in no world; bytes may really be none."""
    if amount != "megabytes" and not sum(getattr(curve, amount)):
        return None
    return curve.best_within(budget, amount)


def _cost(curve: Curve, target: float, amount: Amount) -> float | None:
    """None also where the run spent nothing of it, or was in no world."""
    if not sum(getattr(curve, amount)):
        return None
    found = curve.amount_at(target, amount)
    return None if found is None else found * (1e6 if amount == "megabytes" else 1.0)


def columns_of(protocols: Protocols, rows: Sequence[dict[str, Any]]) -> list[Column]:
    """The columns of the table of quality within budgets and cost to the target.

    Amounts that no row has a cost in, as seconds without a world, have no column.
    """
    assert protocols.target is not None
    to = f"to {100 * protocols.target:.1f} %"
    costs = (
        Column("to_target_bytes", to, "bytes"),
        Column("to_target_s", to, "seconds"),
        Column("to_target_j", f"{to} (J)"),
    )
    return [
        Column("method", "method", "text"),
        *(
            Column(f"within_{_ENDS[amount]}", f"within {budget:.3g} {_UNITS[amount][2]}", "percent")
            for amount, budget in protocols.budgets.items()
        ),
        *(cost for cost in costs if any(_there(row[cost.key]) for row in rows)),
    ]


def _there(value: Any) -> bool:
    """Whether a row has a value, of any seed."""
    return any(one is not None for one in (value if isinstance(value, list) else [value]))


def protocol_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with a value only where every seed has one: a mean of the rest would mislead."""
    return [
        {
            key: None if isinstance(value, list) and None in value else value
            for key, value in row.items()
        }
        for row in rows
    ]
