"""ASFV: cut, vehicles, bandwidth and power for the least latency (arXiv 2405.18707).

Vehicle m with cut c is done after T = fixed_m(c) + S_m(c) / R_m seconds. fixed_m(c) is the forward
and backward pass on both sides and the downlink; S is all the bits that the vehicle sends
(activations and its part of the model); R_m is its uplink rate in bit/s. The vehicle takes part
only if T is within its stay time and its compute and upload energy within its cap.

The paper alternates between the blocks. Here, inferred by us, a round time tau is tried: each
vehicle then takes the cut that needs the least bandwidth (by enumeration; `power_in_time` of
`radio_math` gives the power), and n vehicles fit if and only if the n smallest needs sum to at most
W_tot. Needs fall as tau grows, so bisection on tau finds the shortest round for the best n
vehicles, jointly optimal in cut, selection, bandwidth and power.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.device_arrays import device_array, device_numbers, no_numbers, positive
from cutlayer.allocate.radio_math import (
    LN2,
    Bools,
    Floats,
    Ints,
    least_bandwidth,
    least_feasible,
    power_in_time,
    rate,
)
from cutlayer.errors import AllocationError


@dataclass(frozen=True, eq=False)
class VehicleProblem:
    """M vehicles and C cuts.

    gain, power_max_w, energy_max_j (inf for none; compute and upload together), time_max_s (stay
    time left, inf for none): [M] or one number. fixed_time_s, upload_bits, compute_energy_j:
    [M, C] or what broadcasts to it. bandwidth_total_hz, noise_w_per_hz. numbers: [M] by which
    errors name vehicles; their places where none are given.
    """

    gain: Floats
    power_max_w: Floats
    energy_max_j: Floats
    time_max_s: Floats
    fixed_time_s: Floats
    upload_bits: Floats
    compute_energy_j: Floats
    bandwidth_total_hz: float
    noise_w_per_hz: float
    numbers: Ints = field(default_factory=no_numbers)

    def __post_init__(self) -> None:
        shape = np.broadcast_shapes(
            *(np.shape(a) for a in (self.fixed_time_s, self.upload_bits, self.compute_energy_j)),
            (np.size(self.gain), 1),
        )
        numbers = device_numbers(self.numbers, shape[0])
        object.__setattr__(self, "numbers", numbers)
        for name, zero, inf in (
            ("gain", False, False),
            ("power_max_w", False, False),
            ("energy_max_j", False, True),
            ("time_max_s", True, True),
        ):
            array = device_array(name, getattr(self, name), numbers, zero=zero, inf=inf)
            object.__setattr__(self, name, array)
        for name in ("fixed_time_s", "upload_bits", "compute_energy_j"):
            table = np.broadcast_to(np.asarray(getattr(self, name), dtype=np.float64), shape)
            good = (table >= 0) & np.isfinite(table)
            if not good.all():
                m, c = (int(i) for i in np.argwhere(~good)[0])
                raise AllocationError(
                    f"{name} of device {numbers[m]} at option {c} is {table[m, c]:g}: it must be 0 "
                    "or more and finite"
                )
            object.__setattr__(self, name, table)
        positive("bandwidth_total_hz", self.bandwidth_total_hz)
        positive("noise_w_per_hz", self.noise_w_per_hz)

    def needed_hz(self, round_time_s: float) -> Floats:
        """Least bandwidth in Hz [M, C]; inf where time or energy rules the cut out."""
        limit = np.minimum(round_time_s, self.time_max_s)[:, None]
        left = np.maximum(self.energy_max_j[:, None] - self.compute_energy_j, 0.0)
        return least_bandwidth(
            self.upload_bits,
            limit - self.fixed_time_s,
            self.power_max_w[:, None],
            left,
            (self.gain / self.noise_w_per_hz)[:, None],
        )


@dataclass(frozen=True, eq=False)
class VehiclePlan:
    """What `solve` found for each of M vehicles.

    cut [M]: index into the C cuts, -1 for a vehicle that is left out. takes_part [M].
    bandwidth_hz, power_w, time_s (compute and upload), energy_j (compute and upload): [M], 0 for
    a vehicle that is left out. round_time_s: the largest time_s.
    """

    cut: Ints
    takes_part: Bools
    bandwidth_hz: Floats
    power_w: Floats
    time_s: Floats
    energy_j: Floats
    round_time_s: float


def vehicles_possible(problem: VehicleProblem) -> int:
    """The most vehicles that can finish within their stay times together."""
    need = np.sort(problem.needed_hz(np.inf).min(axis=1))
    return int(np.searchsorted(np.cumsum(need), problem.bandwidth_total_hz, side="right"))


def solve(problem: VehicleProblem, vehicles: int | None = None) -> VehiclePlan:
    """The shortest round in which `vehicles` vehicles take part (by default all that can finish).

    problem: vehicles, limits, and costs by cut.
    AllocationError where fewer than that can finish; its sentence names the next vehicle and what
    stands in its way.
    """
    M, band = len(problem.gain), problem.bandwidth_total_hz
    possible = vehicles_possible(problem)
    count = possible if vehicles is None else vehicles
    if not 1 <= count <= possible:
        raise AllocationError(_too_many(problem, count, possible))

    def excess(times: npt.NDArray[np.float64]) -> Floats:
        needs = [np.sort(problem.needed_hz(t).min(axis=1))[:count].sum() for t in times]
        return np.array(needs) / band - 1

    top = float(problem.time_max_s.max())
    # A lower bound: the seconds of the slowest of the quickest vehicles, each with the whole band.
    speed = rate(band, problem.power_max_w, problem.gain / problem.noise_w_per_hz)
    alone = (problem.fixed_time_s + problem.upload_bits / speed[:, None]).min(axis=1)
    low = high = min(top, max(1e-12, float(np.sort(alone)[count - 1])))
    while excess(np.array([high]))[0] > 0 and high < top:
        high = min(high * 2, top)
    tau = float(least_feasible(excess, np.array([low]), np.array([high]))[0])

    need = problem.needed_hz(tau)
    cut = need.argmin(axis=1)
    rows = np.arange(M)
    chosen = np.zeros(M, dtype=np.bool_)
    chosen[np.argsort(need.min(axis=1), kind="stable")[:count]] = True
    fixed = problem.fixed_time_s[rows, cut]
    air = np.minimum(tau, problem.time_max_s) - fixed
    compute = problem.compute_energy_j[rows, cut]
    power = power_in_time(air, problem.power_max_w, np.maximum(problem.energy_max_j - compute, 0))
    sends = chosen & (problem.upload_bits[rows, cut] > 0)
    air, power = np.where(sends, air, 0.0), np.where(sends, power, 0.0)
    time = np.where(chosen, fixed + air, 0.0)
    return VehiclePlan(
        cut=np.where(chosen, cut, -1).astype(np.int64),
        takes_part=chosen,
        bandwidth_hz=np.where(chosen, need[rows, cut], 0.0),
        power_w=power,
        time_s=time,
        energy_j=np.where(chosen, compute + power * air, 0.0),
        round_time_s=float(time.max()),
    )


def _too_many(problem: VehicleProblem, count: int, possible: int) -> str:
    if count < 1 and possible > 0:
        return f"vehicles is {count}: at least one must take part"
    need = problem.needed_hz(np.inf).min(axis=1)
    order = np.argsort(need, kind="stable")
    m = int(order[min(max(possible, 0), len(order) - 1)])
    named = f"vehicle {problem.numbers[m]}"
    start = f"{possible} of {len(need)} vehicles can finish, {max(count, 1)} are wanted: "
    if not np.isfinite(need[m]):
        least = problem.compute_energy_j[m] + (
            problem.upload_bits[m] * LN2 * problem.noise_w_per_hz / problem.gain[m]
        )
        slack = float((problem.time_max_s[m] - problem.fixed_time_s[m]).max())
        if slack <= 0:
            computes = float(problem.fixed_time_s[m].min())
            return start + (
                f"{named} stays {problem.time_max_s[m]:.6g} s and computes for {computes:.6g} "
                "s at least"
            )
        if not (least < problem.energy_max_j[m]).any():
            return start + (
                f"energy_max_j of {named} is {problem.energy_max_j[m]:.6g}: every cut takes "
                f"more than {least.min():.6g} J"
            )
        return start + (
            f"{named} has {slack:.6g} s left for its upload, too little at every cut, within "
            "its power and energy, at any bandwidth"
        )
    total = float(need[order[: possible + 1]].sum())
    return start + (
        f"with {named} they need {total:.6g} Hz, but bandwidth_total_hz is "
        f"{problem.bandwidth_total_hz:.6g}"
    )
