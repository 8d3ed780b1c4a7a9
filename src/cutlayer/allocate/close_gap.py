"""Closes the gap of a small P0: tries every vector of tokens that the bound does not rule out.

On a short interval of s = 1 / tau and at a price mu, token vector K has an STE of at most

    sum_m psi_m(K_m, s) + mu W_tot,   psi_m(k, s) = s f_m(k) - mu w_m(k, 1/s),

and each psi is at most a line in s: its tangent where the standing time does not bind (psi is
concave in s), psi itself with the bandwidth held where it does. Sums of lines are lines, so a
vector matters only if its sum exceeds the best STE found so far at one of the interval's ends.
Vectors are built device by device. A partial vector is dropped if even the best tokens of the
remaining devices cannot lift its sum that high. The vectors that remain are tried. Inferred by us.
"""

import numpy as np

from cutlayer.allocate.radio_math import Floats, Ints, marginal_rate, power_in_time
from cutlayer.allocate.token_problem import TokenProblem

VECTORS = 4096


def survivors(
    problem: TokenProblem, s_low: float, s_high: float, price: float, best: float
) -> tuple[Ints, float]:
    """Token vectors [P, M] that may exceed `best` with s in [s_low, s_high].

    Also returns an upper bound on the STE in that interval. With more than VECTORS token vectors
    none is returned, and the bound is above `best`; otherwise the bound is `best`.
    """
    lines = _lines(problem, s_low, s_high, price)
    top = lines.max(axis=2)
    threshold = best * (1 + 1e-9) - price * problem.bandwidth_total_hz
    ceiling = float(top.sum(axis=1).max()) + price * problem.bandwidth_total_hz
    # A device's token number stays possible if it may exceed `best` with the others at their best.
    alive = (lines - top[:, :, None] + top.sum(axis=1)[:, None, None] > threshold).any(axis=0)
    order = np.argsort(alive.sum(axis=1), kind="stable")
    tokens = np.zeros((1, 0), dtype=np.int64)
    sums, rest = np.zeros((2, 1)), top.sum(axis=1)
    for m in order:
        rest = rest - top[:, m]
        choices = np.flatnonzero(alive[m])
        reach = sums[:, :, None] + lines[:, m][:, None, choices]
        keep, pick = np.nonzero((reach + rest[:, None, None] > threshold).any(axis=0))
        if len(keep) > VECTORS:
            return np.zeros((0, problem.devices), dtype=np.int64), ceiling
        tokens = np.column_stack([tokens[keep], choices[pick] + problem.tokens_min])
        sums = reach[:, keep, pick]
    found = np.empty_like(tokens)
    found[:, order] = tokens
    return found, best


def _lines(problem: TokenProblem, s_low: float, s_high: float, price: float) -> Floats:
    """[2, M, K]: upper bounds on psi at s_low and s_high, for K from K_min to N; -inf where K can
    never be sent."""
    tokens = np.arange(problem.tokens_min, problem.tokens_max + 1)[:, None]
    left = problem.upload_max_s
    middle = (s_low + s_high) / 2
    held = left < 1 / s_low
    time = np.where(held, left, 1 / middle)
    power = power_in_time(time, problem.power_max_w, problem.energy_max_j)
    width = problem.bandwidth_needed_hz(tokens, np.where(held, np.inf, 1 / middle))
    widest = problem.bandwidth_needed_hz(tokens, np.where(held, np.inf, 1 / s_low))
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.where(
            problem.energy_max_j * middle >= problem.power_max_w,
            problem.payload_bits(tokens) / marginal_rate(power * problem.gain_over_noise / width),
            width / middle,
        )
    # Where K fits only in the interval's longer rounds, the longest round's bandwidth is a bound.
    tangent = np.isfinite(width) & ~held
    width = np.where(tangent, width, widest)
    growth = np.where(tangent, growth, 0.0)
    worth = problem.importance[:, problem.tokens_min :].T
    value, slope = middle * worth - price * width, worth - price * growth
    half = (s_high - s_low) / 2
    lines: Floats = np.stack([value - slope * half, value + slope * half]).transpose(0, 2, 1)
    return lines
