"""The exact solver of P0: against brute force, a convex solver and the paper's alternation."""

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from allocate_cases import feasible_problems, token_problem
from cutlayer.allocate import close_gap, equal, exact, st_sflora
from cutlayer.allocate.close_gap import survivors
from cutlayer.allocate.device_arrays import subset
from cutlayer.allocate.radio_math import rate
from cutlayer.allocate.relaxed import bandwidth_price, best_responses, least_time
from cutlayer.allocate.token_problem import TokenProblem, obstacles, violations
from cutlayer.errors import AllocationError


def brute_force(problem: TokenProblem, cells: int = 240, levels: int = 120) -> float:
    """The best STE of two devices over every K, a grid of bandwidth splits and one of powers."""
    assert problem.devices == 2
    share = (np.arange(cells) + 0.5) / cells * problem.bandwidth_total_hz
    splits = np.stack([share, problem.bandwidth_total_hz - share])
    power = np.geomspace(1e-3, 1, levels)
    best = 0.0
    span = range(problem.tokens_min, problem.tokens_max + 1)
    fastest = {}
    for m, K in product(range(2), span):
        p = power[:, None] * problem.power_max_w[m]
        time = problem.bits_per_token[m] * (K + problem.extra_tokens)
        time = time / rate(splits[m], p, problem.gain_over_noise[m])
        good = (p * time <= problem.energy_max_j[m]) & (time <= problem.upload_max_s[m])
        fastest[m, K] = np.where(good, time, np.inf).min(axis=0)
    for K in product(span, span):
        round_time = np.maximum(fastest[0, K[0]], fastest[1, K[1]]).min()
        best = max(best, float(problem.value(np.array(K))) / round_time)
    return best


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), N=st.integers(2, 6), flatness=st.sampled_from([0.3, 1.0, 30.0]))
def test_it_is_as_good_as_brute_force_over_tokens_bandwidth_and_power(
    seed: int, N: int, flatness: float
) -> None:
    problem = token_problem(seed, 2, N, flatness=flatness, limited=True)
    assume(not obstacles(problem))
    found = exact.solve(problem)
    assert found.enumerated
    assert violations(problem, found.plan) == []
    grid = brute_force(problem)
    assert grid <= found.plan.ste * (1 + 1e-9)
    # The grid's own coarseness, save where hardly any of its points is feasible.
    assert grid >= found.plan.ste * 0.9 or grid == 0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    M=st.integers(1, 3),
    N=st.integers(2, 12),
    flatness=st.sampled_from([0.3, 1.0, 30.0]),
    limited=st.booleans(),
)
# Closing the gap tries only [6, 6] here, which needs more than the whole band.
@example(seed=2, M=2, N=6, flatness=30.0, limited=True)
def test_the_bound_holds_and_the_search_finds_the_enumerated_best(
    seed: int, M: int, N: int, flatness: float, limited: bool
) -> None:
    problem = token_problem(seed, M, N, flatness=flatness, limited=limited)
    assume(not obstacles(problem))
    best = exact.solve(problem).plan.ste
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "ENUMERATE", 0)
        closed = exact.solve(problem)
        patch.setattr(exact, "PAIRS", 0)
        found = exact.solve(problem)
    assert closed.gap == 0
    assert violations(problem, closed.plan) == []
    assert closed.plan.ste == pytest.approx(best, rel=1e-8)
    assert violations(problem, found.plan) == []
    assert found.plan.ste <= best * (1 + 1e-9)
    assert found.upper_bound >= best * (1 - 1e-9)
    assert found.plan.ste >= best * (1 - 0.03)


@pytest.mark.parametrize("flatness", [0.3, 1.0, 10.0])
def test_at_196_tokens_and_ten_devices_the_gap_is_under_half_a_percent(flatness: float) -> None:
    for seed in range(3):
        found = exact.solve(token_problem(seed, 10, 196, flatness=flatness, tokens_min=4))
        assert 0 <= found.gap < 0.005
        assert found.upper_bound == pytest.approx(found.plan.ste * (1 + found.gap))


def test_it_is_never_below_the_alternation_and_mostly_above() -> None:
    gains = []
    for problem in feasible_problems(25, 6, 20):
        best = exact.solve(problem).plan.ste
        for order in ("power-bandwidth-tokens", "power-tokens-bandwidth"):
            ended = st_sflora.solve(problem, order=order)  # type: ignore[arg-type]
            if ended.plan is not None:
                assert best >= ended.plan.ste * (1 - 1e-12)
                gains.append(best / ended.plan.ste)
    assert len(gains) > 10
    assert np.median(gains) > 1.01


def test_the_relaxed_value_at_a_round_time_is_a_convex_solvers() -> None:
    cp = pytest.importorskip("cvxpy")
    for seed in range(6):
        problem = feasible_problems(6, 3, 8)[seed]
        shortest = least_time(problem, np.full((1, 3), problem.tokens_min))[0]
        for stretch in (1.2, 2.5):
            tau = shortest * stretch
            time = np.minimum(tau, problem.upload_max_s)
            reach = (
                np.minimum(problem.power_max_w, problem.energy_max_j / time)
                * problem.gain_over_noise
            )
            K, f, share = cp.Variable(3), cp.Variable(3), cp.Variable(3, nonneg=True)
            unit = problem.bandwidth_total_hz
            # W log2(1 + a / W) through the relative entropy, W in units of the whole band.
            speed = -cp.rel_entr(share, share + reach / unit) / np.log(2) * unit
            need = cp.multiply(problem.bits_per_token / time, K + problem.extra_tokens)
            rules = [
                need / unit <= speed / unit,
                cp.sum(share) <= 1,
                problem.tokens_min <= K,
                problem.tokens_max >= K,
            ]
            for m in range(3):
                curve = problem.importance[m]
                for k in range(problem.tokens_max):
                    rules.append(f[m] <= curve[k] + (curve[k + 1] - curve[k]) * (K[m] - k))
            task = cp.Problem(cp.Maximize(cp.sum(f)), rules)
            task.solve(solver=cp.CLARABEL)
            s = np.array([1 / tau])
            price = bandwidth_price(problem, s)
            priced = best_responses(problem, price, s)
            bound = priced.value.sum() + price[0] * problem.bandwidth_total_hz
            assert bound == pytest.approx(task.value / tau, rel=1e-5)


def test_an_answers_slope_is_its_values_derivative() -> None:
    problem = token_problem(4, 5, 30, limited=True)
    price, s, step = np.array([2e-5]), np.array([1.7]), 1e-6
    before, after = (best_responses(problem, price, s + d).value for d in (-step, step))
    assert np.allclose(
        (after - before) / (2 * step), best_responses(problem, price, s).slope, rtol=1e-4
    )


def test_an_answer_beats_every_whole_number_of_tokens() -> None:
    problem = token_problem(5, 6, 40, limited=True, time_max_s=np.linspace(0.7, 4, 6))
    s = np.array([0.4, 1.0, 2.5])
    for price in (1e-7, 1e-5, 1e-3):
        found = best_responses(problem, np.full(3, price), s)
        for K in range(problem.tokens_min, 41):
            tokens = np.full(6, K)
            need = problem.bandwidth_needed_hz(tokens, 1 / s[:, None])
            value = s[:, None] * problem.importance[np.arange(6), tokens] - price * need
            feasible = np.isfinite(found.value)
            assert (
                value[feasible] <= found.value[feasible] + 1e-9 * abs(found.value[feasible])
            ).all()


def test_no_relaxed_round_between_two_looked_at_is_above_the_lines() -> None:
    for seed in range(12):
        problem = token_problem(seed, 6, 30, time_max_s=0.5 + np.geomspace(0.15, 3, 6))
        if obstacles(problem):
            continue
        shortest = least_time(problem, np.full((1, 6), problem.tokens_min))[0]
        ends = np.array([1 / (8 * shortest), 1 / shortest])
        ceilings, _ = exact._ceilings(problem, exact._evaluate_round_times(problem, ends))
        inside = np.geomspace(*ends, 40)
        price = bandwidth_price(problem, inside)
        value = best_responses(problem, price, inside).value.sum(axis=1)
        best = (value + price * problem.bandwidth_total_hz).max()
        assert ceilings[0] >= best * (1 - 1e-9)
        assert ceilings[0] <= best * 3


def test_the_best_vector_is_among_the_survivors_or_under_the_bound() -> None:
    for problem in feasible_problems(15, 3, 8):
        grid = np.array(list(product(range(1, 9), repeat=3)))
        times = least_time(problem, grid)
        value = problem.value(grid) / times
        best = int(np.argmax(value))
        s = 1 / times[best]
        low, high = s * 0.995, s * 1.015
        price = float(bandwidth_price(problem, np.array([s]))[0])
        kept, _ = survivors(problem, low, high, price, 0.99 * value[best])
        assert grid[best].tolist() in kept.tolist()
        assert len(kept) < len(grid)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(close_gap, "VECTORS", 0)
            none, bound = survivors(problem, low, high, price, 0.99 * value[best])
        assert not len(none)
        assert value[best] * (1 - 1e-9) <= bound <= value[best] * 1.5


def test_the_shortest_round_uses_the_whole_band() -> None:
    problem = token_problem(6, 8, 20)
    tokens = np.random.default_rng(0).integers(1, 21, (30, 8))
    times = least_time(problem, tokens)
    used = problem.bandwidth_needed_hz(tokens, times[:, None]).sum(axis=1)
    assert np.allclose(used, problem.bandwidth_total_hz, rtol=1e-9)
    assert (used <= problem.bandwidth_total_hz * (1 + 1e-12)).all()


def test_it_is_deterministic_and_does_not_depend_on_the_devices_order() -> None:
    problem = token_problem(7, 9, 60, limited=False)
    first, again = exact.solve(problem), exact.solve(problem)
    assert np.array_equal(first.plan.tokens, again.plan.tokens)
    assert np.array_equal(first.plan.bandwidth_hz, again.plan.bandwidth_hz)
    order = np.random.default_rng(0).permutation(9)
    shuffled = exact.solve(subset(problem, order))
    assert shuffled.plan.ste == pytest.approx(first.plan.ste, rel=1e-6)


def feasible_everywhere(count: int) -> None:
    rng = np.random.default_rng(8)
    solved = 0
    for seed in range(count):
        M, N = int(rng.integers(1, 5)), int(rng.integers(1, 7))
        problem = token_problem(seed, M, N, limited=True)
        if obstacles(problem):
            with pytest.raises(AllocationError):
                exact.solve(problem)
            continue
        found = exact.solve(problem)
        assert violations(problem, found.plan) == []
        ended = st_sflora.solve(problem)
        if ended.plan is not None:
            assert violations(problem, ended.plan) == []
            assert found.plan.ste >= ended.plan.ste * (1 - 1e-12)
        solved += 1
    assert solved > count / 4


def test_it_is_feasible_on_random_instances() -> None:
    feasible_everywhere(150)


@pytest.mark.slow
def test_it_is_feasible_on_10_000_random_instances() -> None:
    feasible_everywhere(10_000)


def test_what_is_in_the_way_is_named_with_a_value_that_would_do() -> None:
    base = token_problem(0, 3, 10)
    cap = base.payload_bits(1) * np.log(2) / base.gain_over_noise
    poor = token_problem(0, 3, 10, energy_max_j=np.array([1.0, 0.5 * cap[1], 1.0]))
    with pytest.raises(AllocationError, match=r"energy_max_j of device 1 .* more than [\d.e-]+ J"):
        exact.solve(poor)
    late = token_problem(0, 3, 10, time_max_s=np.array([9.0, 9.0, 0.4]))
    with pytest.raises(AllocationError, match=r"time_max_s of device 2 is 0\.4: .* needs [\d.]+ s"):
        exact.solve(late)
    need = token_problem(0, 3, 10, time_max_s=2.0).bandwidth_needed_hz(np.ones(3), np.inf)
    narrow = token_problem(0, 3, 10, time_max_s=2.0, bandwidth_total_hz=need.sum() * 0.99)
    with pytest.raises(AllocationError, match=rf"3 devices need {need.sum():.6g} Hz"):
        exact.solve(narrow)
    wider = token_problem(0, 3, 10, time_max_s=2.0, bandwidth_total_hz=need.sum() * 1.01)
    assert violations(wider, exact.solve(wider).plan) == []


def test_the_values_named_would_do() -> None:
    late = token_problem(0, 3, 10, time_max_s=np.array([9.0, 9.0, 0.5001]))
    (sentence,) = obstacles(late)
    needed = float(sentence.split("it needs ")[1].split(" s")[0])
    alone = subset(late, [2])
    short = token_problem(0, 3, 10, time_max_s=needed * 0.99)
    long = token_problem(0, 3, 10, time_max_s=needed * 1.01)
    assert alone.devices == 1
    assert obstacles(subset(short, [2]))
    assert not obstacles(subset(long, [2]))


def test_bad_numbers_are_refused_by_name() -> None:
    for field, value, words in (
        ("gain", np.nan, "gain of device 0"),
        ("power_max_w", -1.0, "power_max_w of device 0"),
        ("bandwidth_total_hz", -5.0, "bandwidth_total_hz is -5"),
        ("energy_max_j", np.array([1.0, np.nan, 1.0]), "energy_max_j of device 1"),
        ("tokens_min", 11, "tokens_min is 11"),
        ("importance", np.tile([0.0, 1.0, 3.0], (3, 1)), "importance of device 0"),
        ("time_max_s", np.ones(2), "time_max_s has shape"),
    ):
        with pytest.raises(AllocationError, match=words):
            token_problem(0, 3, 10, **{field: value})


def test_sentences_name_devices_by_the_numbers_given() -> None:
    numbers = [70, 80, 90]
    poor = token_problem(0, 3, 10, energy_max_j=np.array([1.0, 1e-30, 1.0]), numbers=numbers)
    assert re.search("energy_max_j of device 80 is", obstacles(poor)[0])
    with pytest.raises(AllocationError, match="energy_max_j of device 80 is"):
        equal.solve(poor)
    assert re.search("the 1 tokens of device 80 under", st_sflora.solve(poor).reason)
    fine = token_problem(0, 3, 10, numbers=numbers)
    plan = exact.solve(fine).plan
    greedy = replace(plan, power_w=plan.power_w * np.array([1.0, 1.0, 99.0]))
    assert violations(fine, greedy) == ["device 90: power is above power_max_w"]
    with pytest.raises(AllocationError, match="gain of device 90 is nan"):
        token_problem(0, 3, 10, gain=np.array([1.0, 1.0, np.nan]), numbers=numbers)
    unknown = fine.importance.copy()
    unknown[1, 3] = np.nan
    with pytest.raises(AllocationError, match="importance of device 80 is not finite"):
        replace(fine, importance=unknown)
