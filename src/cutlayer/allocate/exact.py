"""P0 of ST-SFLora solved exactly: price the bandwidth, fill the tokens, search the round time.

For a fixed round time the problem separates: maximise sum f_m(K_m) subject to
sum w_m(K_m, tau) <= W_tot, f_m concave, w_m convex. A price on bandwidth decides each device's
tokens alone, and whole tokens taken by gain per bandwidth are optimal up to one token. Over round
times, intervals of s = 1/tau are bounded from above by `relaxed`'s lines and halved where the
bound is largest, until no interval can hold a better relaxed round. The tokens found are
rounded, filled up, and given their own shortest round (exact: for given tokens the bandwidth
needed falls as the round grows). The largest bound left is a bound on P0 itself, so the answer
comes with its gap. With few devices the token vectors that the bound leaves are all tried (see
`close_gap`), which mostly makes the gap 0. The paper solves P0 by alternation; this method was
inferred by us.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from cutlayer.allocate.close_gap import survivors
from cutlayer.allocate.radio_math import Floats, Ints
from cutlayer.allocate.relaxed import Priced, bandwidth_price, best_responses, least_time
from cutlayer.allocate.st_sflora import solve as alternate
from cutlayer.allocate.token_problem import TokenPlan, TokenProblem, plan_for_time, require_feasible

# If at most this many token vectors are left, all of them are tried.
ENUMERATE = 4096
# With at most this many devices, `_climb` tries moves of single tokens and of pairs at the end.
NEIGHBOURS = 32
PAIRS = 16
# Closing the gap looks at this many intervals of 1 / tau at most.
PIECES = 256
PIECE = 0.02
SHORTEST_PIECE = 1e-4


@dataclass(frozen=True, eq=False)
class Bounded:
    """A plan and what is known about the best one.

    upper_bound: no allocation of P0 has a larger STE (per second). gap: upper_bound / ste - 1.
    enumerated: every token vector that could be better was tried, so the gap is 0.
    """

    plan: TokenPlan
    upper_bound: float
    gap: float
    enumerated: bool


@dataclass(frozen=True, eq=False)
class _Nodes:
    """J round times tau that were looked at, in ascending order of s = 1 / tau.

    s, price (of bandwidth), bound (G on the STE at that price): [J]. priced: what the devices do.
    """

    s: Floats
    price: Floats
    bound: Floats
    priced: Priced


def solve(problem: TokenProblem, *, tolerance: float = 1e-4, rounds_max: int = 64) -> Bounded:
    """The best plan found and an upper bound on every plan's STE.

    problem: devices, limits and importance.
    tolerance: relative gap, for fractional tokens, at which the search over round times ends.
    rounds_max: the most round times looked at. AllocationError where P0 has no solution. The STE is
    never below that of the alternating solver, whose answers are among the candidates.
    """
    require_feasible(problem)
    choices = problem.tokens_max - problem.tokens_min + 1
    if choices**problem.devices <= ENUMERATE:
        span = range(problem.tokens_min, problem.tokens_max + 1)
        tokens = np.array(list(product(span, repeat=problem.devices)), dtype=np.int64)
        plan = _best(problem, tokens)
        return Bounded(plan, plan.ste, 0.0, True)

    plan = _best(problem, _starts(problem))
    shortest = float(least_time(problem, np.full((1, problem.devices), problem.tokens_min))[0])
    every = float(problem.value(np.full(problem.devices, problem.tokens_max)))
    # In a longer round even all tokens of all devices give a smaller STE than the best plan so far.
    longest = min(every / plan.ste, float(problem.upload_max_s.max()))
    longest = max(longest, shortest * (1 + 1e-9))
    breaks = (problem.upload_max_s > shortest) & (problem.upload_max_s < longest)
    nodes = _evaluate_round_times(
        problem, np.geomspace(1 / longest, 1 / shortest, 17 if breaks.any() else 5)
    )
    while True:
        ceilings, crossings = _ceilings(problem, nodes)
        target = max(plan.ste, float(nodes.bound.max()) * (1 + tolerance))
        wide = np.flatnonzero(ceilings > target)
        room = rounds_max - len(nodes.s)
        if not len(wide) or room <= 0:
            break
        worst = wide[np.argsort(-ceilings[wide], kind="stable")][: min(4, room)]
        guess = np.interp(crossings[worst], nodes.s, nodes.price)
        nodes = _join(nodes, _evaluate_round_times(problem, crossings[worst], guess))
    near = np.argsort(-nodes.bound, kind="stable")[:6]
    filled = [_fill_bandwidth(problem, nodes.priced.whole[i], 1 / nodes.s[i]) for i in near]
    plan = _best(problem, np.array(filled), plan)
    if problem.devices <= NEIGHBOURS:
        plan = _climb(problem, plan)
    upper = max(float(ceilings.max()), plan.ste)
    if problem.devices <= PAIRS and upper > plan.ste:
        plan, upper = _close(problem, nodes, ceilings, plan)
    return Bounded(plan, upper, upper / plan.ste - 1, upper <= plan.ste)


def _starts(problem: TokenProblem) -> Ints:
    """The C token vectors [C, M] to begin with: K_min, and the alternating solver's answers."""
    starts = [np.full(problem.devices, problem.tokens_min)]
    for ended in (
        alternate(problem),
        alternate(problem, order="power-tokens-bandwidth"),
    ):
        if ended.plan is not None:
            starts.append(ended.plan.tokens)
    return np.unique(np.array(starts), axis=0)


def _best(problem: TokenProblem, tokens: Ints, known: TokenPlan | None = None) -> TokenPlan:
    """The best by STE of C token vectors [C, M], each in its own shortest round, and of `known`.

    A vector that no round can send (more bandwidth than there is) does not count; without `known`
    one of them must be sendable.
    """
    times = least_time(problem, tokens)
    ste = problem.value(tokens) / times
    best = int(np.argmax(ste))
    if known is not None and (np.isinf(times[best]) or ste[best] <= known.ste):
        return known
    return plan_for_time(problem, tokens[best], float(times[best]))


def _evaluate_round_times(problem: TokenProblem, s: Floats, guess: Floats | None = None) -> _Nodes:
    price = bandwidth_price(problem, s, guess)
    priced = best_responses(problem, price, s)
    bound = priced.value.sum(axis=1) + price * problem.bandwidth_total_hz
    return _Nodes(s, price, bound, priced)


def _join(first: _Nodes, second: _Nodes) -> _Nodes:
    order = np.argsort(np.concatenate([first.s, second.s]), kind="stable")

    def merge(a: Floats, b: Floats) -> Floats:
        joined: Floats = np.concatenate([a, b])[order]
        return joined

    x, y = first.priced, second.priced
    priced = Priced(
        merge(x.tokens, y.tokens),
        np.concatenate([x.whole, y.whole])[order],
        merge(x.bandwidth_hz, y.bandwidth_hz),
        merge(x.value, y.value),
        merge(x.slope, y.slope),
    )
    return _Nodes(
        merge(first.s, second.s),
        merge(first.price, second.price),
        merge(first.bound, second.bound),
        priced,
    )


def _ceilings(problem: TokenProblem, nodes: _Nodes) -> tuple[Floats, Floats]:
    """For each interval between two of the J nodes [J - 1]: a bound on the STE inside it, and where
    to split it.

    Two lines in s, one for each end's price, lie above the STE (see `relaxed`); the bound is the
    top of their lower envelope.
    """
    a, b = nodes.s[:-1], nodes.s[1:]
    width = b - a
    at_a, at_b = nodes.bound[:-1], nodes.bound[1:]
    slope_a, slope_b = nodes.priced.slope[:-1].sum(axis=1), nodes.priced.slope[1:].sum(axis=1)
    standing = problem.upload_max_s < 1 / a[:, None]
    mixed = standing.any(axis=1)
    if mixed.any():
        held, rest = standing[mixed], ~standing[mixed]
        ends = (a[mixed], b[mixed])
        band = problem.bandwidth_total_hz
        for price, tangent_end, level, slope in (
            (nodes.price[:-1][mixed], 0, at_a, slope_a),
            (nodes.price[1:][mixed], 1, at_b, slope_b),
        ):
            low, high = (best_responses(problem, price, s, held) for s in ends)
            tangent = (low, high)[tangent_end]
            chord = ((high.value - low.value) * held).sum(axis=1) / width[mixed]
            level[mixed] = tangent.value.sum(axis=1) + price * band
            slope[mixed] = (tangent.slope * rest).sum(axis=1) + chord
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = a + (at_b - at_a - slope_b * width) / (slope_a - slope_b)
    crossing = np.where(np.isfinite(crossing), np.clip(crossing, a, b), (a + b) / 2)
    tops = [
        np.minimum(at_a + slope_a * (s - a), at_b + slope_b * (s - b)) for s in (a, crossing, b)
    ]
    split = np.clip(crossing, a + 0.1 * width, b - 0.1 * width)
    return np.max(tops, axis=0), split


def _fill_bandwidth(problem: TokenProblem, tokens: Ints, round_time: float) -> Ints:
    """`tokens` [M] and as many more as the bandwidth left allows, by gain per bandwidth."""
    tokens = tokens.copy()
    device = np.arange(problem.devices)
    used = problem.bandwidth_needed_hz(tokens, round_time)
    for _ in range(8):
        more = np.minimum(tokens + 1, problem.tokens_max)
        cost = problem.bandwidth_needed_hz(more, round_time) - used
        gain = problem.importance[device, more] - problem.importance[device, tokens]
        left = problem.bandwidth_total_hz - used.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            density = np.where((gain > 0) & (cost <= left), gain / cost, 0.0)
        order = np.argsort(-density, kind="stable")
        order = order[density[order] > 0]
        taken = order[np.cumsum(cost[order]) <= left]
        if not len(taken):
            break
        tokens[taken] += 1
        used[taken] += cost[taken]
    return tokens


def _close(
    problem: TokenProblem, nodes: _Nodes, ceilings: Floats, plan: TokenPlan
) -> tuple[TokenPlan, float]:
    """The best plan once the token vectors that are left were tried, and the bound on its STE."""
    open_bounds = [0.0]
    work = [(float(c), *nodes.s[i : i + 2].tolist()) for i, c in enumerate(ceilings)]
    for _ in range(PIECES):
        work = [piece for piece in work if piece[0] > plan.ste]
        if not work:
            break
        ceiling, low, high = work.pop(int(np.argmax([piece[0] for piece in work])))
        if high / low <= 1 + PIECE:
            price = float(np.interp((low + high) / 2, nodes.s, nodes.price))
            tokens, bound = survivors(problem, low, high, price, plan.ste)
            if len(tokens):
                plan = _best(problem, tokens, plan)
            ceiling = min(ceiling, bound)
            if ceiling <= plan.ste:
                continue
        middle = float(np.sqrt(low * high))
        if high / low <= 1 + SHORTEST_PIECE:
            open_bounds.append(ceiling)
        else:
            work += [(ceiling, low, middle), (ceiling, middle, high)]
    open_bounds += [piece[0] for piece in work]
    return plan, max(plan.ste, *open_bounds)


def _climb(problem: TokenProblem, plan: TokenPlan) -> TokenPlan:
    """One token more for a device, one less for another, or both, as long as the STE rises."""
    one = np.eye(problem.devices, dtype=np.int64)
    both = (one[:, None] - one).reshape(-1, problem.devices)
    steps = np.concatenate([one, -one, both] if problem.devices <= PAIRS else [one, -one])
    for _ in range(64):
        near = np.clip(plan.tokens + steps, problem.tokens_min, problem.tokens_max)
        better = _best(problem, near, plan)
        if better.ste <= plan.ste * (1 + 1e-12):
            break
        plan = better
    return plan
