"""Bandwidth and power for uploads of known size: the shortest round, and the cheapest one.

Device m sends S_m bits after fixed_s_m seconds of other work and has to be done by the end of
the round tau and by its own time limit, so t_m = min(tau, limit_m) - fixed_m is its air time. It
uses all of t_m: less power over a longer time sends the same bits with less energy,

    e(W, t) = (W t / gain_over_noise)(2^(S / (W t)) - 1)   joules,

falling and convex in W. Its power and energy limits are a least bandwidth, `least_bandwidth`.

- Shortest round: bandwidth needed falls with tau, so bisection on its sum is exact.
- Least energy in a given round: de/dW = -(t / g) h(x), h(x) = (x - 1) e^x + 1,
  x = S ln2 / (W t). A price nu per Hz gives h(x) = nu g / t for each device alone, and
  bisection on nu makes the sum W_tot. Exact, the problem being convex.
- Least weighted time and energy: with W = e^a, t = e^b, tau = e^c, e(W, t) is
  sum_k>0 (S ln2)^k e^((1-k)(a+b)) / (k! g), a sum of exponentials of linear forms; so are
  the limits and t + fixed <= tau. The problem is a geometric program: the least energy is convex
  in ln tau, and one search on the sign of the derivative finds the optimum. This form was
  inferred by us.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from cutlayer.allocate.device_arrays import device_numbers, no_numbers, subset
from cutlayer.allocate.radio_math import (
    LN2,
    Bools,
    Floats,
    Ints,
    bend,
    least_bandwidth,
    least_feasible,
    marginal_rate,
    power_for_deadline,
    power_in_time,
    rate,
)
from cutlayer.errors import AllocationError


@dataclass(frozen=True, eq=False)
class Uploads:
    """Uploads of M devices that share a band of band_hz.

    payload_bits, fixed_s, limit_s, power_max_w, energy_max_j, gain_over_noise: [M].

    limit_s: end of the stay, counted from the round's start; inf for none. energy_max_j: for the
    upload alone; inf for none. gain_over_noise: h / N0 in Hz per watt.
    numbers: by which errors name devices; their places where none are given.
    """

    payload_bits: Floats
    fixed_s: Floats
    limit_s: Floats
    power_max_w: Floats
    energy_max_j: Floats
    gain_over_noise: Floats
    band_hz: float
    numbers: Ints = field(default_factory=no_numbers)

    def __post_init__(self) -> None:
        numbers = device_numbers(self.numbers, len(self.payload_bits))
        object.__setattr__(self, "numbers", numbers)

    def air_time(self, round_time_s: float) -> Floats:
        """Seconds t_m [M] left for each upload; 0 or less: none are left."""
        return np.minimum(round_time_s, self.limit_s) - self.fixed_s

    def needed_hz(self, round_time_s: float) -> Floats:
        """The least bandwidth [M] in Hz for this round time."""
        return least_bandwidth(
            self.payload_bits,
            self.air_time(round_time_s),
            self.power_max_w,
            self.energy_max_j,
            self.gain_over_noise,
        )


@dataclass(frozen=True, eq=False)
class Shares:
    """bandwidth_hz, power_w, upload_s, energy_j: [M]; round_time_s; price_j_per_hz = nu."""

    bandwidth_hz: Floats
    power_w: Floats
    upload_s: Floats
    energy_j: Floats
    round_time_s: float
    price_j_per_hz: float


def energy_slope(x: Floats) -> Floats:
    """h(x) = (x - 1) e^x + 1 = e^x bend(x), for x >= 0."""
    with np.errstate(over="ignore"):
        value: Floats = np.exp(x) * bend(x)
    return value


def energy_slope_inverse(value: Floats) -> Floats:
    """x > 0 with h(x) = value, by Newton on ln h, which is concave; 0 counts as 1e-290."""
    target = np.clip(value, 1e-290, 1e290)
    goal = np.log(target)
    x = np.minimum(np.sqrt(2 * target), 1 + np.log1p(target))
    for _ in range(5):
        height = bend(x)
        x = np.maximum(x - (x + np.log(height) - goal) * height / x, x / 8)
    result: Floats = x
    return result


def fastest(uploads: Uploads) -> float:
    """The shortest round in seconds, exact; AllocationError where the limits cannot be met."""
    require_room(uploads)
    alone = rate(uploads.band_hz, uploads.power_max_w, uploads.gain_over_noise)
    low = max(float((uploads.fixed_s + uploads.payload_bits / alone).max()), 1e-12)
    top = float(uploads.limit_s.max())
    high = min(low, top)
    while uploads.needed_hz(high).sum() > uploads.band_hz and high < top:
        high = min(high * 2, top)

    def excess(times: Floats) -> Floats:
        return np.array([uploads.needed_hz(t).sum() / uploads.band_hz - 1 for t in times])

    return float(
        least_feasible(excess, np.array([min(high, max(low, 1e-12))]), np.array([high]))[0]
    )


def in_time(uploads: Uploads, round_time_s: float) -> Shares:
    """The split of the band that spends the least energy in all within this round time."""
    sends = uploads.payload_bits > 0
    if not sends.all():
        return _padded(uploads, sends, round_time_s)
    floor = uploads.needed_hz(round_time_s)
    air = uploads.air_time(round_time_s)
    nats = uploads.payload_bits * LN2
    band = uploads.band_hz

    def width(price: Floats) -> Floats:
        x = energy_slope_inverse(price[:, None] * uploads.gain_over_noise / air)
        bandwidth: Floats = np.maximum(floor, nats / (x * air))
        return bandwidth

    def excess(price: Floats) -> Floats:
        used: Floats = width(price).sum(axis=1)
        return used / band - 1

    # At the low price one device alone asks for the whole band; at the high price every device
    # asks only for its least bandwidth.
    low = energy_slope(nats / (band * air)) * air / uploads.gain_over_noise
    high = energy_slope(nats / (floor * air)) * air / uploads.gain_over_noise
    price = least_feasible(excess, np.array([low.min()]), np.array([high.max()]), tolerance=1e-10)
    bandwidth = width(price)[0]
    bandwidth = bandwidth * min(1.0, band / float(bandwidth.sum()))
    bandwidth = np.maximum(bandwidth, floor)
    power = power_for_deadline(uploads.payload_bits, air, bandwidth, uploads.gain_over_noise)
    limit = power_in_time(air, uploads.power_max_w, uploads.energy_max_j)
    power = np.where(power > limit * (1 - 1e-9), limit, power)
    return Shares(bandwidth, power, air, power * air, round_time_s, float(price[0]))


def _padded(uploads: Uploads, sends: Bools, round_time_s: float) -> Shares:
    """`in_time` for the devices that send anything; zeros for the others."""
    index = np.flatnonzero(sends)
    wide = np.zeros((4, len(sends)))
    price = 0.0
    if len(index):
        shares = in_time(subset(uploads, index), round_time_s)
        wide[:, index] = shares.bandwidth_hz, shares.power_w, shares.upload_s, shares.energy_j
        price = shares.price_j_per_hz
    return Shares(wide[0], wide[1], wide[2], wide[3], round_time_s, price)


def cheapest(uploads: Uploads, time_weight: float, energy_weight: float) -> Shares:
    """The least time_weight * tau + energy_weight * sum of energies (per second, per joule)."""
    shortest = fastest(uploads)
    if energy_weight <= 0:
        return in_time(uploads, shortest)
    found: dict[float, Shares] = {}

    def shares_at(time: float) -> Shares:
        if time not in found:
            found[time] = in_time(uploads, time)
        return found[time]

    first = shares_at(shortest)
    longest = float(uploads.limit_s.max())
    if time_weight > 0:
        bound = shortest + energy_weight * float(first.energy_j.sum()) / time_weight
        longest = min(longest, bound)
    if not np.isfinite(longest):
        raise AllocationError(
            "the time weight is 0 and no device has a time limit: the round of least energy would "
            "then never end; give a time limit or a time weight above 0"
        )
    if longest <= shortest * (1 + 1e-12):
        return first

    def excess(times: Floats) -> Floats:
        slopes = [
            time_weight + energy_weight * _energy_growth(uploads, shares_at(float(t)))
            for t in times
        ]
        scale = max(time_weight, energy_weight * float(first.energy_j.sum()) / longest)
        growth: Floats = np.array(slopes) / scale
        return -growth

    best = least_feasible(excess, np.array([shortest]), np.array([longest]), tolerance=1e-7)
    return shares_at(float(best[0]))


def _energy_growth(uploads: Uploads, shares: Shares) -> float:
    """d(least energy)/d tau in watts where these shares spend least, by the envelope theorem; never
    above 0.
    """
    round_time_s = shares.round_time_s
    width, air = shares.bandwidth_hz, shares.upload_s
    with np.errstate(divide="ignore", invalid="ignore"):
        x = uploads.payload_bits * LN2 / (width * air)
        snr = shares.power_w * uploads.gain_over_noise / width
    free = -width / uploads.gain_over_noise * energy_slope(x)
    # A device at its least bandwidth spends p_max t or E_max; in a longer round it frees bandwidth.
    at_power = uploads.energy_max_j >= uploads.power_max_w * air
    with np.errstate(divide="ignore", invalid="ignore"):
        fall = np.where(at_power, uploads.payload_bits / (air**2 * marginal_rate(snr)), width / air)
    bound = np.where(at_power, uploads.power_max_w, 0.0) - shares.price_j_per_hz * fall
    floor = uploads.needed_hz(round_time_s)
    growth = np.where(width > floor * (1 + 1e-9), free, bound)
    growth = np.where(uploads.payload_bits > 0, growth, 0.0)
    return float(growth[uploads.limit_s > round_time_s].sum())


def require_room(uploads: Uploads) -> None:
    """AllocationError naming the device and the limit in the way, if there is one."""
    need = uploads.needed_hz(np.inf)
    least_energy = uploads.payload_bits * LN2 / uploads.gain_over_noise
    if (lacking := ~(need <= uploads.band_hz)).any():
        m = int(np.argmax(lacking))
        device = f"device {uploads.numbers[m]}"
        if uploads.energy_max_j[m] <= least_energy[m]:
            raise AllocationError(
                f"the energy of {device} is {uploads.energy_max_j[m]:.6g} J for its upload: "
                f"sending {uploads.payload_bits[m]:.6g} bits takes more than "
                f"{least_energy[m]:.6g} J over its link"
            )
        alone = replace(subset(uploads, np.array([m])), limit_s=np.array([np.inf]))
        raise AllocationError(
            f"the time limit of {device} is {uploads.limit_s[m]:.6g} s: with the whole band to "
            f"itself it needs {fastest(alone):.6g} s"
        )
    if need.sum() > uploads.band_hz:
        m = int(np.argmax(need))
        raise AllocationError(
            f"the bandwidth is {uploads.band_hz:.6g} Hz: within their time limits the "
            f"{len(need)} devices need {need.sum():.6g} Hz, device {uploads.numbers[m]} the most "
            f"of it ({need[m]:.6g} Hz)"
        )
