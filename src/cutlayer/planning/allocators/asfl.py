"""ASFL (arXiv 2406.15804): the faster the link, the earlier the cut; equal parts of the band."""

from cutlayer.allocate import asfl
from cutlayer.errors import AllocationError
from cutlayer.planning.allocators.equal import in_equal_parts
from cutlayer.planning.known.planning_input import PlanningInput, RoundDecisions


def solve(known: PlanningInput) -> RoundDecisions:
    """Chooses each device's cut by its uplink rate at an equal share of the band and full power."""
    settings = known.allocation
    speed = known.uplink_bps(known.bandwidth_hz / len(known.devices), known.fleet.power_max_w)
    cuts = settings.cuts or paper_cuts(known.loads.spec.depth)
    if len(cuts) != len(settings.rates_bps):
        raise AllocationError(
            f"method.allocation.rates_bps has {len(settings.rates_bps)} thresholds for the cuts "
            f"{list(cuts)}: give one for each cut, or name the cuts in method.allocation.cuts"
        )
    chosen = asfl.cut_by_rate(speed, settings.rates_bps, cuts, known.numbers)
    return in_equal_parts(known, chosen)


def paper_cuts(depth: int) -> tuple[int, ...]:
    """The paper's cuts 8, 6, 4, 2 of nine, in proportion to the model's depth: inferred by us."""
    return tuple(max(1, round(cut * depth / 9)) for cut in asfl.PAPER_CUTS)
