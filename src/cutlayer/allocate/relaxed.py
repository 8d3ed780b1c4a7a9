"""P0 with fractional tokens and a price on bandwidth: the values and bounds behind `exact`.

With s = 1 / tau and a price mu (per Hz and second), device m alone maximises

    phi_m(mu, s) = max over K in [K_min, N] of  s f_m(K) - mu w_m(K, 1/s),

f_m being the curve drawn straight between whole tokens. G(mu, s) = sum phi_m + mu W_tot is then
never below the best STE among rounds of length 1/s, whatever mu >= 0 (weak duality), and equals
it for fractional tokens at the mu where the bandwidths sum to W_tot.

Shape in s, for a fixed mu. Where the standing time does not bind, s f(v/s) with v = K s is the
perspective of a concave function and w is convex in (s, S s) (see `radio_math`), so phi_m is
concave in s, and so is the best relaxed STE. Where it binds (1/s beyond the upload time left), w_m
does not depend on s and phi_m is a maximum of lines: convex in s. Sums of both have several local
maxima. A bound over an interval of s is therefore a line: tangents of the concave terms plus
chords of the convex ones. All of this was inferred by us.
"""

from dataclasses import dataclass

import numpy as np

from cutlayer.allocate.radio_math import (
    LN2,
    Bools,
    Floats,
    Ints,
    least_feasible,
    marginal_rate,
    power_in_time,
    rate,
    snr_of_marginal,
    snr_root,
)
from cutlayer.allocate.token_problem import TokenProblem


@dataclass(frozen=True, eq=False)
class Priced:
    """What each of M devices does at J pairs of a bandwidth price and s = 1 / tau.

    tokens [J, M]: fractional; whole [J, M]: the same rounded down, int64. bandwidth_hz [J, M].
    value [J, M]: phi. slope [J, M]: d phi / d s at a fixed price.
    """

    tokens: Floats
    whole: Ints
    bandwidth_hz: Floats
    value: Floats
    slope: Floats


def best_responses(
    problem: TokenProblem, price: Floats, s: Floats, standing: Bools | None = None
) -> Priced:
    """Every device's best fractional tokens at `price` [J] (per Hz and second) and `s` [J] (1/s).

    standing [J, M]: whether a device uploads for all of its standing time, whatever s is; by
    default where that time is shorter than 1/s. K_min must be feasible at each s.

    By bisection over whole tokens on the sign of s (f(K+1) - f(K)) - mu dw/dK; within a segment
    dw/dK = s (f(K+1) - f(K)) / mu gives the marginal rate, hence the signal-to-noise ratio.
    """
    left = problem.upload_max_s
    time_of_round = 1 / s[:, None]
    if standing is None:
        standing = left < time_of_round
    time = np.where(standing, left, time_of_round)
    power = power_in_time(time, problem.power_max_w, problem.energy_max_j)
    reach = power * problem.gain_over_noise
    # Tokens become the share c of the link's limit: c = unit (K + extra).
    unit = problem.bits_per_token * LN2 / (time * reach)
    curves, device = problem.importance, np.arange(problem.devices)
    worth = s[:, None] / price[:, None] * time / problem.bits_per_token

    low = np.full(time.shape, problem.tokens_min, dtype=np.int64)
    high = np.full(time.shape, problem.tokens_max, dtype=np.int64)
    # Bisection on whole K: the value rises up to low (or low = K_min) and falls from high on.
    while (low < high).any():
        k = (low + high) // 2
        gain = curves[device, np.minimum(k + 1, problem.tokens_max)] - curves[device, k]
        snr = snr_root(unit * (k + problem.extra_tokens))
        rises = gain * worth * marginal_rate(snr) > 1
        low, high = np.where(rises & (low < high), k + 1, low), np.where(rises, high, k)
    # Between whole K the value is smooth: its maximum is low itself, or lies between low - 1 and
    # low where it falls already as K comes up to low.
    before = np.maximum(low - 1, problem.tokens_min)
    gain = curves[device, low] - curves[device, before]
    snr_at_low = snr_root(unit * (low + problem.extra_tokens))
    inside = (low > before) & ~(gain * worth * marginal_rate(snr_at_low) >= 1)
    with np.errstate(divide="ignore"):
        wanted = np.where(inside, 1 / (gain * worth), 1.0)
    snr_inside = snr_of_marginal(wanted)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.log1p(snr_inside) / snr_inside
    tokens = np.where(
        inside, np.clip(share / unit - problem.extra_tokens, before, low), low.astype(np.float64)
    )
    snr = np.where(inside, snr_inside, snr_at_low)
    with np.errstate(divide="ignore"):
        bandwidth = reach / snr
    worth_f = curves[device, before] + (tokens - before) * gain
    worth_f = np.where(low > before, worth_f, curves[device, low])
    value = s[:, None] * worth_f - price[:, None] * bandwidth
    # dw/ds: by the rate S s where the power is p_max; w is proportional to s where it is E_max s.
    at_limit = problem.energy_max_j * s[:, None] >= problem.power_max_w
    payload = problem.payload_bits(tokens)
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.where(at_limit, payload / marginal_rate(snr), bandwidth / s[:, None])
    slope = worth_f - price[:, None] * np.where(standing, 0.0, growth)
    whole = np.where(inside, before, low)
    return Priced(tokens, whole, bandwidth, value, slope)


def bandwidth_price(problem: TokenProblem, s: Floats, guess: Floats | None = None) -> Floats:
    """The price [J] of bandwidth at which the devices use W_tot together; near 0 if they never do.

    guess [J]: where to look first. Any price gives a valid bound; this price gives the best one.
    """
    left = problem.upload_max_s
    time = np.minimum(left, 1 / s[:, None])
    power = power_in_time(time, problem.power_max_w, problem.energy_max_j)
    payload = problem.payload_bits(problem.tokens_min)
    snr = snr_root(payload * LN2 / (time * power * problem.gain_over_noise))
    first = problem.importance[:, problem.tokens_min + 1 :][:, :1]
    gain = (first[:, 0] if first.size else 0.0) - problem.importance[:, problem.tokens_min]
    # No device takes a token beyond K_min above this price.
    ceiling = (s[:, None] * gain * time / problem.bits_per_token * marginal_rate(snr)).max(axis=1)
    ceiling = np.maximum(ceiling, 1e-200) * (1 + 1e-9)

    def excess(price: Floats) -> Floats:
        used: Floats = best_responses(problem, price, s).bandwidth_hz.sum(axis=1)
        return used / problem.bandwidth_total_hz - 1

    # A bracket around the guess, widened by ever larger factors.
    middle = ceiling / 16 if guess is None else np.minimum(guess, ceiling)
    factor = 2.0 if guess is None else 1.05
    low, high = middle / factor, np.minimum(middle * factor, ceiling)
    for _ in range(6):
        factor = factor**2.5
        floor = ceiling * 1e-15
        short, long = excess(low) <= 0, excess(high) > 0
        if not (short & (low > floor)).any() and not (long & (high < ceiling)).any():
            break
        low, high = (
            np.where(long, high, np.where(short, np.maximum(low / factor, floor), low)),
            np.where(short, low, np.where(long, np.minimum(high * factor, ceiling), high)),
        )
    return least_feasible(excess, low, high, tolerance=1e-7)


def least_time(problem: TokenProblem, tokens: Ints) -> Floats:
    """The shortest round [J] in seconds that sends tokens [J, M]; inf where none is feasible.

    Exact: the bandwidth needed falls as the round grows.
    """
    band = problem.bandwidth_total_hz
    payload = problem.payload_bits(tokens)
    possible = problem.bandwidth_needed_hz(tokens, np.inf).sum(axis=1) <= band
    # A lower bound is the whole band for one device alone; an upper one is found by growing.
    fastest = (payload / rate(band, problem.power_max_w, problem.gain_over_noise)).max(axis=1)
    left = problem.upload_max_s
    longest = max(float(left.max()), 0.0)
    slowest, growing = fastest.copy(), possible.copy()
    while growing.any():
        slowest = np.where(growing, np.minimum(slowest * 4, np.maximum(longest, fastest)), slowest)
        short = problem.bandwidth_needed_hz(tokens, slowest[:, None]).sum(axis=1) > band
        growing &= short & (slowest < np.minimum(longest, 1e30 * fastest))

    def excess(times: Floats) -> Floats:
        used: Floats = problem.bandwidth_needed_hz(tokens, times[:, None]).sum(axis=1)
        return used / band - 1

    times = least_feasible(excess, fastest * (1 - 1e-12), slowest)
    return np.where(possible & (excess(times) <= 1e-12), times, np.inf)
