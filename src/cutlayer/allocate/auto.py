"""`auto`, ours: cut, tokens, bits, bandwidth and power together, at a quality that was measured.

Each device picks one option (a cut, a number of tokens, bits) among those that fit its memory and
whose measured quality is high enough. The solver minimises

    time_weight * tau + energy_weight * sum E + bits_weight * sum S

subject to each device's energy and time limit and to the whole band W_tot. tau is the length of
the round in seconds (compute, upload and download of the slowest device), E a device's energy for
computing and uploading in joules, S the payload that it uploads in bits.

Why it is optimal. For a given tau and a price nu on bandwidth the problem falls apart: device m
takes the option and the bandwidth W >= its least that minimise energy + payload + nu W, the
inner minimum over W being convex (see `uploads`). The bandwidth asked for falls with nu, so a
bisection finds the price at which it fits; the sum so minimised, less nu W_tot, is a lower bound
for that tau (weak duality), which differs from the optimum by at most the devices that change
options at that very price. With only time to save, nothing is lost: each device takes the option
that needs the least bandwidth, needs fall with tau, and bisection on tau is exact. Otherwise the
energy part falls with tau, so that on [tau_1, tau_2] no plan costs less than time_weight tau_1
plus the energy bound of tau_2; intervals that could hold a better plan are halved. For the options
of every tau tried, power, bandwidth and tau are then solved together exactly
(`uploads.cheapest`). Plan and lower bound are both returned. All of this was inferred by us.

An option is dropped first where another one needs no more FLOPs, payload, download, server time
and memory: the other is never worse, for any device.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cutlayer.allocate.options import OptionProblem, Options, options_of
from cutlayer.allocate.radio_math import LN2, Bools, Floats, Ints, least_feasible, rate
from cutlayer.allocate.uploads import Shares, cheapest, energy_slope_inverse
from cutlayer.errors import AllocationError


@dataclass(frozen=True, eq=False)
class AutoPlan:
    """What `solve` found, for each of M devices.

    cut, tokens, bits: [M] indices into the axes of the quality table. takes_part: [M]. quality,
    bandwidth_hz, power_w, upload_s, energy_j (compute and upload), payload_bits: [M], 0 for a
    device that is left out. objective: the plan's cost. lower_bound: no plan costs less. gap:
    objective / lower_bound - 1.
    """

    cut: Ints
    tokens: Ints
    bits: Ints
    takes_part: Bools
    quality: Floats
    bandwidth_hz: Floats
    power_w: Floats
    upload_s: Floats
    energy_j: Floats
    payload_bits: Floats
    round_time_s: float
    objective: float
    lower_bound: float
    gap: float


@dataclass(frozen=True, eq=False)
class _Weights:
    time: float
    energy: float
    bits: float


def solve(
    problem: OptionProblem,
    *,
    time_weight: float = 1.0,
    energy_weight: float = 0.0,
    bits_weight: float = 0.0,
    drop: bool = False,
    tolerance: float = 1e-3,
    rounds_max: int = 80,
) -> AutoPlan:
    """The best plan found and a lower bound on every plan's cost.

    problem: devices, limits, and costs and quality of each setting.
    time_weight, energy_weight, bits_weight: cost of a second of the round, of a joule and of an
    uploaded bit; with a time_weight of 0 every device needs a time limit. drop: leave out devices
    that cannot take part and, as long as the band is too narrow for the rest, the device that
    needs most of it; without drop, AllocationError names what is in the way. tolerance: the
    search over round times ends at this relative gap. rounds_max: the most round times that are
    tried. With a time_weight alone the solution is exact.
    """
    weights = _Weights(time_weight, energy_weight, bits_weight)
    options, members = options_of(problem, drop=drop)
    choice, shares, cost, lower = _search(options, weights, tolerance, rounds_max)
    M = len(problem.gain)
    row = np.arange(len(members))

    def wide(values: Floats) -> Floats:
        full = np.zeros(M)
        full[members] = values
        return full

    takes_part = np.zeros(M, dtype=np.bool_)
    takes_part[members] = True
    index = np.zeros(M, dtype=np.int64)
    index[members] = options.index[choice]
    axes = np.unravel_index(index, problem.quality.shape)
    return AutoPlan(
        cut=axes[0].astype(np.int64),
        tokens=axes[1].astype(np.int64),
        bits=axes[2].astype(np.int64),
        takes_part=takes_part,
        quality=np.where(takes_part, problem.quality.ravel()[index], 0.0),
        bandwidth_hz=wide(shares.bandwidth_hz),
        power_w=wide(shares.power_w),
        upload_s=wide(shares.upload_s),
        energy_j=wide(shares.energy_j + options.compute_energy_j[row, choice]),
        payload_bits=wide(options.payload_bits[row, choice]),
        round_time_s=shares.round_time_s,
        objective=cost,
        lower_bound=min(lower, cost),
        gap=cost / min(lower, cost) - 1 if lower > 0 else np.inf,
    )


def _search(
    options: Options, weights: _Weights, tolerance: float, rounds_max: int
) -> tuple[Ints, Shares, float, float]:
    """Options chosen, their shares, the cost and the lower bound."""
    shortest = _shortest(options)
    first = options.needed_hz(shortest).argmin(axis=1)
    shares, cost = _solve_radio(options, first, weights)
    best = (first, shares, cost)
    if weights.energy <= 0 and weights.bits <= 0:
        return *best, weights.time * shortest
    # A longer round than this costs more than the best plan so far, by its length alone.
    top = float(options.limit_s.max())
    if weights.time > 0:
        top = min(top, cost / weights.time)
    if not np.isfinite(top):
        raise AllocationError(
            "time_weight is 0 and a device has no time_max_s: the round of least energy would then "
            "never end; set time_max_s or a time_weight above 0"
        )
    times = np.geomspace(shortest, max(top, shortest * (1 + 1e-9)), 9)
    spent, answers = _at_prices(options, weights, times)
    fresh, found = times, spent
    tried: set[bytes] = {first.tobytes()}
    while True:
        for tau, bound, answer in zip(fresh, found, answers, strict=True):
            if weights.time * tau + bound >= best[2]:
                continue
            if (key := answer.tobytes()) not in tried:
                tried.add(key)
                shares, cost = _solve_radio(options, answer, weights)
                best = min(best, (answer, shares, cost), key=lambda b: b[2])
        lower = weights.time * times[:-1] + spent[1:]
        wide = np.flatnonzero(lower < best[2] * (1 - tolerance))
        room = rounds_max - len(times)
        if not len(wide) or room <= 0:
            break
        wide = wide[np.argsort(lower[wide], kind="stable")][: min(6, room)]
        fresh = np.sqrt(times[wide] * times[wide + 1])
        found, answers = _at_prices(options, weights, fresh)
        order = np.argsort(np.concatenate([times, fresh]), kind="stable")
        times = np.concatenate([times, fresh])[order]
        spent = np.concatenate([spent, found])[order]
    return *best, float(min(lower.min(), best[2]))


def _shortest(options: Options) -> float:
    """The shortest possible round (exact): every device takes its option of least bandwidth."""
    top = float(options.limit_s.max())
    speed = rate(options.band_hz, options.power_max_w, options.gain_over_noise)
    alone = (options.fixed_s + options.payload_bits / speed[:, None]).min(axis=1)
    low = high = min(max(float(alone.max()), 1e-12), top)

    def excess(times: Floats) -> Floats:
        used = [options.needed_hz(t).min(axis=1).sum() for t in times]
        over: Floats = np.array(used) / options.band_hz - 1
        return over

    while excess(np.array([high]))[0] > 0 and high < top:
        high = min(high * 2, top)
    return float(least_feasible(excess, np.array([low]), np.array([high]))[0])


def _solve_radio(options: Options, choice: Ints, weights: _Weights) -> tuple[Shares, float]:
    """The exact power, bandwidth and round time for options chosen, and the cost."""
    uploads = options.uploads(choice)
    if weights.energy > 0:
        shares = cheapest(uploads, weights.time, weights.energy)
    else:
        shares = cheapest(uploads, 1.0, 0.0)
    rows = np.arange(len(choice))
    energy = shares.energy_j.sum() + options.compute_energy_j[rows, choice].sum()
    cost = weights.time * shares.round_time_s + weights.energy * energy
    return shares, float(cost + weights.bits * options.payload_bits[rows, choice].sum())


def _at_prices(options: Options, weights: _Weights, times: Floats) -> tuple[Floats, list[Ints]]:
    """For each round time the lower bound of energy and payload cost, and the options chosen."""
    bounds, answers, guess = [], [], 0.0
    for tau in times:
        priced = _priced(options, weights, float(tau))

        def excess(prices: Floats, priced: _Chooser = priced) -> Floats:
            over: Floats = np.array([priced(float(p))[1].sum() for p in prices])
            return over / options.band_hz - 1

        if guess <= 0:
            guess = max(float(priced(0.0)[2].sum()) / options.band_hz, 1e-250)
        low, high = guess / 2, guess * 2
        for _ in range(200):
            if excess(np.array([high]))[0] <= 0:
                break
            low, high = high, high * 8
        while low > guess * 1e-14 and excess(np.array([low]))[0] <= 0:
            low, high = low / 8, low
        guess = float(least_feasible(excess, np.array([low]), np.array([high]), 1e-6)[0])
        pick, _, cost = priced(guess)
        bounds.append(float(cost.sum() - guess * options.band_hz))
        answers.append(pick)
    return np.array(bounds), answers


_Chooser = Callable[[float], tuple[Ints, Floats, Floats]]


def _priced(options: Options, weights: _Weights, tau: float) -> _Chooser:
    """Each device's option, bandwidth and cost [m] at a price per Hz, in a round of tau seconds."""
    floor = options.needed_hz(tau)
    able = np.isfinite(floor)
    air = np.where(able, np.minimum(tau, options.limit_s)[:, None] - options.fixed_s, 1.0)
    nats = np.broadcast_to(options.payload_bits * LN2, floor.shape)
    sends = able & (nats > 0) & (weights.energy > 0)
    gain_over_noise = options.gain_over_noise[:, None]
    settled = weights.energy * options.compute_energy_j + weights.bits * options.payload_bits
    rows = np.arange(len(floor))

    def choose(price: float) -> tuple[Ints, Floats, Floats]:
        width = np.where(able, floor, 1.0)
        energy = np.zeros_like(width)
        if weights.energy > 0:
            x = energy_slope_inverse(price / weights.energy * gain_over_noise / air)
            width = np.where(sends, np.maximum(width, nats / (x * air)), width)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                used = width * air / gain_over_noise * np.expm1(nats / (width * air))
            energy = np.where(sends, used, 0.0)
        cost = np.where(able, weights.energy * energy + settled + price * width, np.inf)
        pick = cost.argmin(axis=1)
        return pick, width[rows, pick], cost[rows, pick]

    return choose
