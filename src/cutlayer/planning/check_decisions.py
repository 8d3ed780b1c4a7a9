"""Checks the decisions of any allocator against what device, model and band allow."""

import math
from collections.abc import Iterator
from typing import Any

from cutlayer.allocate.decision import Decision
from cutlayer.errors import AllocationError
from cutlayer.planning.known.planning_input import PlanningInput, RoundDecisions

SLACK = 1e-6
"""By how much, relatively, rounding may lift the sum of bandwidths or a power above its limit."""


def check_decisions(known: PlanningInput, decided: RoundDecisions) -> None:
    """Raise AllocationError for the first decision that device, model or band cannot meet."""
    fault = next(_faults(known, decided), None)
    if fault is not None:
        raise AllocationError(
            f"method.allocation.solver: {known.job.method.allocation.solver!r} {fault}"
        )


def _faults(known: PlanningInput, decided: Any) -> Iterator[str]:
    """What is wrong: each is the end of a sentence that begins with the solver's name."""
    if not isinstance(decided, RoundDecisions):
        yield f"gave a {type(decided).__name__}: let it return RoundDecisions"
        return
    for device in (*decided.decisions, *decided.left_out):
        if device not in known.place:
            yield (
                f"decided for device {device!r}, which could not take part in this round: take "
                "devices of PlanningInput.devices only"
            )
    for device in decided.decisions:
        if device in decided.left_out:
            yield f"let device {device} take part and left it out: do one of them"
    for device, one in decided.decisions.items():
        if not isinstance(one, Decision):
            yield f"gave device {device} a {type(one).__name__}: let it give a Decision"
            return
        for wrong in (
            *_cut_faults(known, one),
            *_precision_faults(known, device, one),
            *_radio_faults(known, device, one),
        ):
            yield f"gave device {device} {wrong}"
    shared = [one.bandwidth_hz or 0.0 for one in decided.decisions.values()]
    used = max(shared, default=0.0) if known.turns else sum(shared)
    if used > known.bandwidth_hz * (1 + SLACK):
        yield (
            f"gave out {used:g} Hz of {known.bandwidth_hz:g} Hz: share what there is "
            "(world.bandwidth_hz)"
        )


def _cut_faults(known: PlanningInput, one: Decision) -> Iterator[str]:
    if not known.job.method.split:
        return
    spec = known.loads.spec
    if not _is_whole(one.cut) or not 0 <= one.cut <= spec.depth:
        yield f"cut {one.cut!r}: the model has {spec.depth} blocks, take 0 to {spec.depth}"
        return
    if one.tokens is not None:
        if not _is_whole(one.tokens) or not 1 <= one.tokens <= spec.patches:
            yield f"{one.tokens!r} tokens: take 1 to the model's {spec.patches}, or None for all"
        elif one.cut == 0:
            yield f"{one.tokens} tokens at cut 0, where no block ranks them: give None for all"
        elif spec.why_all_tokens is not None:
            yield f"{one.tokens} tokens: {spec.path} {spec.why_all_tokens}, give None for all"
    for name, bits in (("bits_up", one.bits_up), ("bits_down", one.bits_down)):
        if not _is_whole(bits) or not (1 <= bits <= 8 or bits in (16, 32)):
            yield f"{name} {bits!r}: take 1 to 8, 16 or 32"
    yield from _rate_faults(known, one.rate_bits)


def _rate_faults(known: PlanningInput, rate_bits: object) -> Iterator[str]:
    if rate_bits is None:
        return
    method = known.job.method
    most = method.finest_rate_bits
    if method.uplink.codec != "klt":
        yield (
            f"rate_bits {rate_bits!r}, which only codec klt sends at: give None, or set "
            "method.uplink.codec klt"
        )
    elif not isinstance(rate_bits, int | float) or not 0.01 <= rate_bits <= most:
        yield (f"rate_bits {rate_bits!r}: take 0.01 to {most:g}, or raise method.uplink.rate_bits")


def _precision_faults(known: PlanningInput, device: int, one: Decision) -> Iterator[str]:
    allowed = known.allocation.precisions
    if one.precision not in allowed:
        yield (
            f"precision {one.precision!r}: take {' or '.join(allowed)}, or name it in "
            "method.allocation.precisions"
        )
    elif one.precision != "float32" and device in known.in_float32:
        yield f"precision {one.precision!r}, but it runs torch: take float32"


def _radio_faults(known: PlanningInput, device: int, one: Decision) -> Iterator[str]:
    most_w = float(known.fleet.power_max_w[known.place[device]])
    for name, value in (("bandwidth_hz", one.bandwidth_hz), ("power_w", one.power_w)):
        if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            yield f"{name} {value!r}: give a finite number above 0, or leave the device out"
            return
    if one.power_w is not None and one.power_w > most_w * (1 + SLACK):
        yield f"power_w {one.power_w:g}: it has {most_w:g} W at most"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
