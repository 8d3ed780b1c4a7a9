"""The radio arithmetic every allocator shares: rate, its inverses, and their marginal values.

A link is described by one number, g = gain_over_noise = h / N0 in Hz per watt (channel power
gain over noise density). With bandwidth W (Hz) and power p (W) its signal-to-noise ratio is
x = p g / W and its rate R(W, p) = W log2(1 + x). R is the perspective of log2(1 + p g), hence
jointly concave in (W, p), increasing in both, and bounded by p g / ln 2 as W grows.

Both inverses reduce to one equation, ln(1 + y) = c y with 0 < c < 1:

- least bandwidth for a rate: c = R ln2 / (p g), W = p g / y;
- largest power under an energy cap, p S / R <= E: c = S ln2 / (E g), p = y W / g. In the
  paper's letters that is ln(1 + phi p) = kappa p, and c = kappa / phi does not depend on W: an
  energy cap is a cap on the signal-to-noise ratio.

Least bandwidth over all feasible powers. To send S bits within t seconds with p <= p_max and
p T_U <= E, it never pays to finish early: stretching the upload to t at the same energy carries
more bits at the same bandwidth. So T_U = t, p = min(p_max, E / t), and w(S, t) is one inverse.
w is convex and increasing in S (the inverse of a concave increasing function) and falls with t.
With s = 1/t, it is jointly convex in (s, S s): R >= S s and p <= min(p_max, E s) are convex
constraints. All of this was inferred by us; arXiv 2605.26120 nests bisections instead.

Arrays broadcast; nothing here depends on the order of devices.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LN2 = math.log(2.0)
_TINY = 1e-290


def snr_root(c: npt.ArrayLike) -> Floats:
    """The positive root y of ln(1 + y) = c y; inf for c <= 0, 0 for c >= 1 (no positive root).

    Newton from the upper bound y0 = (1 - c + u + sqrt(2u)) / c, u = c - 1 - ln c, of the Lambert
    form y = -W_-1(-c e^-c) / c - 1: ln(1 + y) - c y is concave and y0 lies right of its maximum,
    so the steps fall monotonically, and four reach rounding for every c. The last digits
    are those of ln(1 + y) = c y; near c = 1 y itself is known to about 1e-16 / (1 - c).
    """
    ratio = np.asarray(c, dtype=np.float64)
    inside = np.clip(ratio, _TINY, 1 - 2.0**-53)
    rest = 1 - inside
    excess = np.maximum(-rest - np.log(inside), 0.0)
    y = (rest + excess + np.sqrt(2 * excess)) / inside
    for _ in range(4):
        slope = rest - inside * y
        step = (np.log1p(y) - inside * y) * (1 + y) / np.where(slope < 0, slope, -1.0)
        y = np.where(slope < 0, np.maximum(y - step, 0.0), y)
    result: Floats = np.where(ratio >= 1, 0.0, np.where(ratio <= 0, np.inf, y))
    return result


def rate(
    bandwidth_hz: npt.ArrayLike, power_w: npt.ArrayLike, gain_over_noise: npt.ArrayLike
) -> Floats:
    """Shannon rate in bit/s, W log2(1 + p g / W); 0 without bandwidth."""
    bandwidth = np.asarray(bandwidth_hz, dtype=np.float64)
    reach = np.asarray(power_w, dtype=np.float64) * np.asarray(gain_over_noise, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        value: Floats = bandwidth * np.log1p(reach / bandwidth) / LN2
    return np.where(bandwidth > 0, value, 0.0)


def bandwidth_for_rate(
    rate_bps: npt.ArrayLike, power_w: npt.ArrayLike, gain_over_noise: npt.ArrayLike
) -> Floats:
    """The bandwidth in Hz that gives a rate at a power; inf at or above p g / ln 2."""
    wanted = np.asarray(rate_bps, dtype=np.float64)
    reach = np.asarray(power_w, dtype=np.float64) * np.asarray(gain_over_noise, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = np.where(wanted > 0, wanted * LN2 / reach, 0.0)
        bandwidth: Floats = reach / snr_root(share)
    return np.where(share >= 1, np.inf, np.where(wanted > 0, bandwidth, 0.0))


def power_under_energy(
    payload_bits: npt.ArrayLike,
    bandwidth_hz: npt.ArrayLike,
    energy_max_j: npt.ArrayLike,
    gain_over_noise: npt.ArrayLike,
) -> Floats:
    """The largest power in W with p S / R(W, p) <= E_max; 0 where no power meets the cap.

    Energy rises with power from its infimum S ln2 / g, so the cap is met below the root of
    ln(1 + phi p) = kappa p, phi = g / W, kappa = S ln2 / (E_max W) (arXiv 2605.26120, power
    step). inf without a cap.
    """
    payload, bandwidth, cap, gain = np.broadcast_arrays(
        *(
            np.asarray(a, dtype=np.float64)
            for a in (payload_bits, bandwidth_hz, energy_max_j, gain_over_noise)
        )
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        power: Floats = snr_root(payload * LN2 / (cap * gain)) * bandwidth / gain
    return power


def power_for_deadline(
    payload_bits: npt.ArrayLike,
    time_s: npt.ArrayLike,
    bandwidth_hz: npt.ArrayLike,
    gain_over_noise: npt.ArrayLike,
) -> Floats:
    """The least power in W that sends S bits in t seconds: (W / g)(2^(S / (W t)) - 1)."""
    bandwidth = np.asarray(bandwidth_hz, dtype=np.float64)
    time = np.asarray(time_s, dtype=np.float64)
    bits = np.asarray(payload_bits, dtype=np.float64)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        power = bandwidth * np.expm1(bits * LN2 / (bandwidth * time)) / np.asarray(gain_over_noise)
    return np.where((bandwidth > 0) & (time > 0), power, np.where(bits > 0, np.inf, 0.0))


def power_in_time(
    time_s: npt.ArrayLike, power_max_w: npt.ArrayLike, energy_max_j: npt.ArrayLike
) -> Floats:
    """The power in W of an upload that lasts t seconds and spares nothing: min(p_max, E_max/t)."""
    time = np.asarray(time_s, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.asarray(energy_max_j, dtype=np.float64) / time
    power: Floats = np.minimum(power_max_w, np.where(time > 0, spread, 0.0))
    return power


def least_bandwidth(
    payload_bits: npt.ArrayLike,
    time_s: npt.ArrayLike,
    power_max_w: npt.ArrayLike,
    energy_max_j: npt.ArrayLike,
    gain_over_noise: npt.ArrayLike,
) -> Floats:
    """w(S, t): the least bandwidth in Hz to send S bits within t seconds over feasible powers.

    inf where no bandwidth does. The power that goes with it is `power_in_time`; see the module's
    text for why, and for its convexity.
    """
    time = np.asarray(time_s, dtype=np.float64)
    payload = np.asarray(payload_bits, dtype=np.float64)
    endless = np.isinf(time)
    # Without a deadline any bandwidth, however small, will do, if the energy suffices at all.
    reachable = payload * LN2 < np.asarray(energy_max_j) * np.asarray(gain_over_noise)
    time = np.where(endless, 1.0, time)
    power = power_in_time(time, power_max_w, energy_max_j)
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = np.where(time > 0, payload / time, np.where(payload > 0, np.inf, 0.0))
    bandwidth = bandwidth_for_rate(wanted, power, gain_over_noise)
    return np.where(endless, np.where(reachable, 0.0, np.inf), bandwidth)


def marginal_rate(snr: npt.ArrayLike) -> Floats:
    """dR/dW in bit/s/Hz at a signal-to-noise ratio x: (ln(1 + x) - x / (1 + x)) / ln 2."""
    x = np.asarray(snr, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        exact = np.log1p(x) - x / (1 + x)
    # x - x^2/2 + ... less x - x^2 + ...: without the cancellation of the exact form.
    z = np.minimum(x, 3e-3)
    series = z**2 * (1 / 2 - z * (2 / 3 - z * (3 / 4 - z * (4 / 5 - z * 5 / 6))))
    value: Floats = np.where(x < 3e-3, series, np.where(np.isinf(x), np.inf, exact)) / LN2
    return value


def bend(t: npt.ArrayLike) -> Floats:
    """t - 1 + e^-t for t >= 0, without cancellation at small t.

    The marginal rate is bend(ln(1 + x)) / ln 2; the marginal energy e^t bend(t) (see `uploads`).
    """
    x = np.asarray(t, dtype=np.float64)
    if x.size and x.min() >= 1e-2:  # the series is not needed
        whole: Floats = x + np.expm1(-x)
        return whole
    z = np.minimum(x, 1e-2)
    series = z**2 * (1 / 2 - z * (1 / 6 - z * (1 / 24 - z * (1 / 120 - z / 720))))
    value: Floats = np.where(x < 1e-2, series, x + np.expm1(-x))
    return value


def snr_of_marginal(value: npt.ArrayLike) -> Floats:
    """The signal-to-noise ratio at which dR/dW is `value` bit/s/Hz: inverse of `marginal_rate`.

    With t = ln(1 + x) it solves bend(t) = b, convex and increasing, by Newton from above.
    """
    target = np.asarray(value, dtype=np.float64) * LN2
    t = np.minimum(1 + target, target + np.sqrt(2 * target)) + 1e-300
    for _ in range(5):
        t = t - (bend(t) - target) / -np.expm1(-t)
    with np.errstate(over="ignore"):
        snr: Floats = np.expm1(np.maximum(t, 0.0))
    return snr


def least_feasible(
    excess: Callable[[Floats], Floats],
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    tolerance: float = 1e-13,
) -> Floats:
    """The least x in [low, high] with excess(x) <= 0, elementwise, for a falling `excess`.

    excess maps an array of x > 0 to an array of that shape; it may be inf where x is too small.
    The answer is always on the feasible side: excess <= 0 there if it is at `high`. Inverse
    quadratic interpolation on ln x where it can be trusted and bisection where not (Chandrupatla,
    Advances in Engineering Software 28(3), 1997), until excess is in [-tolerance, 0] or the
    bracket has shrunk to rounding.
    """
    x_2 = np.log(np.asarray(low, dtype=np.float64))
    x_1 = np.log(np.asarray(high, dtype=np.float64))
    x_2, x_1 = (side.copy() for side in np.broadcast_arrays(x_2, x_1))
    # The search aims half a tolerance below 0, so that it lands on the feasible side.
    aim = tolerance / 2
    f_2, f_1 = excess(np.exp(x_2)), excess(np.exp(x_1))
    best, at_best = np.where(f_2 <= 0, x_2, x_1), np.where(f_2 <= 0, f_2, f_1)
    f_2, f_1 = f_2 + aim, f_1 + aim
    # x_1 is the latest point, x_2 the other end of the bracket, t where to go between them.
    t = np.full(x_1.shape, 0.5)
    for _ in range(200):
        tiny = 4e-16 * np.maximum(1, np.abs(x_1))
        done = ((at_best <= 0) & (at_best >= -tolerance)) | (np.abs(x_2 - x_1) <= tiny)
        if done.all():
            break
        x = np.where(done, best, x_1 + t * (x_2 - x_1))
        f = excess(np.exp(x))
        lower = (f <= 0) & ((x < best) | (at_best > 0))
        best, at_best = np.where(lower, x, best), np.where(lower, f, at_best)
        f = f + aim
        same = (f > 0) == (f_1 > 0)
        x_3, f_3 = np.where(same, x_1, x_2), np.where(same, f_1, f_2)
        x_2, f_2 = np.where(same, x_2, x_1), np.where(same, f_2, f_1)
        x_1, f_1 = np.where(done, x_1, x), np.where(done, f_1, f)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            xi, phi = (x_1 - x_2) / (x_3 - x_2), (f_1 - f_2) / (f_3 - f_2)
            quadratic = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
            t = f_1 / (f_2 - f_1) * f_3 / (f_2 - f_3)
            t = t + (x_3 - x_1) / (x_2 - x_1) * f_1 / (f_3 - f_1) * f_2 / (f_3 - f_2)
        t = np.where(quadratic & np.isfinite(t), np.clip(t, 1e-9, 1 - 1e-9), 0.5)
    return np.exp(best)
