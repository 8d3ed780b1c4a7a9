"""SFLAM: bits, power and bandwidth for latency and energy under an error budget (2504.09114).

Minimise lambda max_m T_m + (1 - lambda) sum_m E_m with T_m = T_0,m + S_m(q_m) / R_m and
E_m = E_cmp,m + p_m S_m(q_m) / R_m over bits q_m, powers and bandwidths, subject to
sum W <= W_tot, p <= p_max, the energy caps, the time limits and sum_m err_m(q_m) <= budget.

Block coordinate descent, as in the paper, with two blocks, inferred by us:

- power and bandwidth for given bits: a geometric program, solved exactly (`uploads.cheapest`).
  One block, because either alone stalls: each leaves the other no slack at the round time;
- bits for given power and bandwidth: what a bit of payload costs each device is taken from that
  solution (a successive convex approximation: the objective's derivative), then bits are chosen
  by enumeration in order of cost saved per error added, up to one device the least cost under
  the budget, error being convex in the bits.

A step is kept only if it lowers the objective, so the objective falls until it settles.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cutlayer.allocate.device_arrays import device_array, device_numbers, no_numbers, positive
from cutlayer.allocate.radio_math import LN2, Floats, Ints, marginal_rate
from cutlayer.allocate.uploads import Shares, Uploads, cheapest
from cutlayer.errors import AllocationError

PAPER_BITS = (2, 4, 8, 16, 32)


def quantisation_error(
    values: float, activation_range: Floats, bits: Sequence[int] = PAPER_BITS
) -> Floats:
    """Error [M, Q] of quantising `values` numbers with range delta: values delta^2 / (4 (2^q-1)^2).

    activation_range: delta [M]. bits: the Q choices q.
    """
    steps = 2.0 ** np.asarray(bits, dtype=np.float64) - 1
    spread = np.asarray(activation_range, dtype=np.float64)[:, None]
    error: Floats = values * spread**2 / (4 * steps**2)
    return error


@dataclass(frozen=True, eq=False)
class BitsProblem:
    """M devices and Q choices of bits, rising.

    gain, power_max_w, energy_max_j (compute and upload, inf for none), time_max_s (inf for none),
    fixed_time_s, compute_energy_j: [M] or one number. payload_bits, error: [M, Q].
    error_budget: on the sum of errors. bandwidth_total_hz, noise_w_per_hz. numbers: [M] by which
    errors name devices; their places where none are given.
    """

    gain: Floats
    power_max_w: Floats
    energy_max_j: Floats
    time_max_s: Floats
    fixed_time_s: Floats
    compute_energy_j: Floats
    payload_bits: Floats
    error: Floats
    error_budget: float
    bandwidth_total_hz: float
    noise_w_per_hz: float
    bits: tuple[int, ...] = PAPER_BITS
    numbers: Ints = field(default_factory=no_numbers)

    def __post_init__(self) -> None:
        M, Q = np.size(self.gain), len(self.bits)
        numbers = device_numbers(self.numbers, M)
        object.__setattr__(self, "numbers", numbers)
        for name, zero, inf in (
            ("gain", False, False),
            ("power_max_w", False, False),
            ("energy_max_j", False, True),
            ("time_max_s", False, True),
            ("fixed_time_s", True, False),
            ("compute_energy_j", True, False),
        ):
            array = device_array(name, getattr(self, name), numbers, zero=zero, inf=inf)
            object.__setattr__(self, name, array)
        for name, sign in (("payload_bits", 1), ("error", -1)):
            table = np.broadcast_to(np.asarray(getattr(self, name), dtype=np.float64), (M, Q))
            good = np.isfinite(table).all() and (table >= 0).all() and table[:, :1].all()
            if not good or (sign * np.diff(table, axis=1) < 0).any():
                word = "rise" if sign > 0 else "fall"
                raise AllocationError(
                    f"{name} must be positive, finite and {word} with the bits {self.bits}"
                )
            object.__setattr__(self, name, table)
        positive("bandwidth_total_hz", self.bandwidth_total_hz)
        positive("noise_w_per_hz", self.noise_w_per_hz)
        least = float(self.error[:, -1].sum())
        if not least <= self.error_budget:
            raise AllocationError(
                f"error_budget is {self.error_budget:g}: with {self.bits[-1]} bits everywhere the "
                f"error is {least:.6g} already"
            )

    def uploads(self, choice: Ints) -> Uploads:
        """The uploads with these choices [M] of bits (indices)."""
        return Uploads(
            payload_bits=self.payload_bits[np.arange(len(choice)), choice],
            fixed_s=self.fixed_time_s,
            limit_s=self.time_max_s,
            power_max_w=self.power_max_w,
            energy_max_j=np.maximum(self.energy_max_j - self.compute_energy_j, 0.0),
            gain_over_noise=self.gain / self.noise_w_per_hz,
            band_hz=self.bandwidth_total_hz,
            numbers=self.numbers,
        )


@dataclass(frozen=True, eq=False)
class BitsPlan:
    """What the descent found for each of M devices.

    bits, bandwidth_hz, power_w, time_s and energy_j (of computing and upload together): [M].
    round_time_s: the largest time_s. error: the sum over devices. loops: of the descent; history:
    the objective after each of them.
    """

    bits: Ints
    bandwidth_hz: Floats
    power_w: Floats
    time_s: Floats
    energy_j: Floats
    round_time_s: float
    energy_total_j: float
    error: float
    objective: float
    loops: int
    history: tuple[float, ...]


def solve(
    problem: BitsProblem,
    latency_weight: float = 0.5,
    *,
    shared_bits: bool = False,
    loops_max: int = 20,
    tolerance: float = 1e-6,
) -> BitsPlan:
    """Block coordinate descent for lambda = `latency_weight` in [0, 1].

    problem: devices, limits, and the bits to choose from. loops_max: the most loops. tolerance: the
    relative change of the objective at which they end.
    shared_bits: all devices get one q, the fewest bits that keep the error budget. With weight 0
    every device needs a time limit. AllocationError where the fewest bits that keep the budget
    cannot be sent with any power and bandwidth.
    """
    if not 0 <= latency_weight <= 1:
        raise AllocationError(f"latency_weight is {latency_weight:g}: it must be 0 to 1")
    M = len(problem.gain)
    if shared_bits:
        fits = problem.error.sum(axis=0) <= problem.error_budget
        choice = np.full(M, int(np.argmax(fits)))
    else:
        choice = fewest_bits(problem, 1 / (problem.gain * problem.power_max_w))
    shares, objective = _solve_radio(problem, choice, latency_weight)
    history, loops = [objective], 1
    while not shared_bits and loops < loops_max:
        loops += 1
        other = fewest_bits(problem, _bit_cost(problem, choice, shares, latency_weight))
        if np.array_equal(other, choice):
            break
        try:
            tried = _solve_radio(problem, other, latency_weight)
        except AllocationError:
            break
        if tried[1] >= objective * (1 - tolerance):
            break
        choice, (shares, objective) = other, tried
        history.append(objective)
    rows = np.arange(M)
    energy = shares.energy_j + problem.compute_energy_j
    return BitsPlan(
        bits=np.asarray(problem.bits, dtype=np.int64)[choice],
        bandwidth_hz=shares.bandwidth_hz,
        power_w=shares.power_w,
        time_s=problem.fixed_time_s + shares.upload_s,
        energy_j=energy,
        round_time_s=float((problem.fixed_time_s + shares.upload_s).max()),
        energy_total_j=float(energy.sum()),
        error=float(problem.error[rows, choice].sum()),
        objective=objective,
        loops=loops,
        history=tuple(history),
    )


def curve(problem: BitsProblem, latency_weights: Sequence[float]) -> list[BitsPlan]:
    """The latency-energy curve: a plan for every weight, in the order given."""
    return [solve(problem, weight) for weight in latency_weights]


def fewest_bits(problem: BitsProblem, cost_per_bit: Floats) -> Ints:
    """Choices [M] that keep the error budget at the least sum of cost_per_bit [M] times payload.

    Devices start at the most bits. Steps to fewer bits are taken in order of cost saved per error
    added; a device whose step no longer fits the budget takes no further step.
    """
    M, Q = problem.error.shape
    top = Q - 1
    saved = np.diff(problem.payload_bits, axis=1)[:, ::-1] * cost_per_bit[:, None]
    added = -np.diff(problem.error, axis=1)[:, ::-1]
    with np.errstate(divide="ignore"):
        ratio = np.minimum(saved / added, 1e300)
    # Rounding of the ratios must not change the order of a device's own steps.
    ratio = np.minimum.accumulate(ratio, axis=1)
    order = np.argsort(-ratio.ravel(), kind="stable")
    left = problem.error_budget - float(problem.error[:, top].sum())
    total = np.cumsum(added.ravel()[order])
    prefix = int(np.searchsorted(total, left, side="right"))
    downs = np.bincount(order[:prefix] // top, minlength=M) if top else np.zeros(M, dtype=np.int64)
    left -= float(total[prefix - 1]) if prefix else 0.0
    blocked = np.zeros(M, dtype=np.bool_)
    smallest = float(added.min()) if added.size else np.inf
    for step in order[prefix:]:
        if left < smallest:
            break
        m, level = divmod(int(step), top)
        if blocked[m] or level != downs[m] or added[m, level] > left:
            blocked[m] = True
            continue
        downs[m] += 1
        left -= float(added[m, level])
    result: Ints = top - downs
    return result


def _solve_radio(problem: BitsProblem, choice: Ints, weight: float) -> tuple[Shares, float]:
    shares = cheapest(problem.uploads(choice), weight, 1 - weight)
    time = float((problem.fixed_time_s + shares.upload_s).max())
    energy = float((shares.energy_j + problem.compute_energy_j).sum())
    return shares, weight * time + (1 - weight) * energy


def _bit_cost(problem: BitsProblem, choice: Ints, shares: Shares, weight: float) -> Floats:
    """What one more bit of payload costs each device [M] now, up to a common factor.

    In joules: de/dS = ln2 / gain_over_noise * e^x where power may still rise, else the price of the
    bandwidth that the bit takes, nu / (t dR/dW). With no weight on energy, that bandwidth alone.
    """
    uploads = problem.uploads(choice)
    width, air = shares.bandwidth_hz, shares.upload_s
    snr = shares.power_w * uploads.gain_over_noise / width
    takes = 1 / (air * marginal_rate(snr))
    if weight >= 1:
        return takes
    free = LN2 / uploads.gain_over_noise * (1 + snr)
    floor = uploads.needed_hz(shares.round_time_s)
    cost: Floats = np.where(width > floor * (1 + 1e-9), free, shares.price_j_per_hz * takes)
    return cost
