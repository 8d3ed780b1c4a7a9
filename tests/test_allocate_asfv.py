"""ASFV against brute force over cuts, vehicles and radio; ASFL's rule; equal shares."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from allocate_cases import NOISE, gains, limits, token_problem
from cutlayer.allocate import equal
from cutlayer.allocate.asfl import cut_by_rate
from cutlayer.allocate.asfv import VehiclePlan, VehicleProblem, solve, vehicles_possible
from cutlayer.allocate.device_arrays import subset
from cutlayer.allocate.radio_math import rate
from cutlayer.allocate.token_problem import violations
from cutlayer.errors import AllocationError


def vehicles(seed: int, M: int, C: int = 4, limited: bool = True) -> VehicleProblem:
    rng = np.random.default_rng(seed)
    work = np.sort(rng.uniform(0.05, 1.5, C))
    sent = -np.sort(-(10 ** rng.uniform(5.5, 7.3, C)))
    caps = limits(rng, M, limited)
    return VehicleProblem(
        gain=gains(rng, M),
        power_max_w=0.2,
        energy_max_j=caps["energy_max_j"],  # type: ignore[arg-type]
        time_max_s=caps["time_max_s"],  # type: ignore[arg-type]
        fixed_time_s=work * rng.uniform(0.5, 2, (M, 1)),
        upload_bits=sent,
        compute_energy_j=0.02 * work,
        bandwidth_total_hz=3e6 * M,
        noise_w_per_hz=NOISE,
    )


def check(problem: VehicleProblem, plan: VehiclePlan) -> None:
    m = np.flatnonzero(plan.takes_part)
    payload = problem.upload_bits[m, plan.cut[m]]
    gain_over_noise = problem.gain[m] / problem.noise_w_per_hz
    time = payload / rate(plan.bandwidth_hz[m], plan.power_w[m], gain_over_noise)
    high = 1 + 1e-8
    assert (problem.fixed_time_s[m, plan.cut[m]] + time <= plan.round_time_s * high).all()
    assert (plan.time_s[m] <= problem.time_max_s[m] * high).all()
    spent = problem.compute_energy_j[m, plan.cut[m]] + plan.power_w[m] * time
    assert (spent <= problem.energy_max_j[m] * high).all()
    assert (plan.power_w <= problem.power_max_w * high).all()
    assert plan.bandwidth_hz.sum() <= problem.bandwidth_total_hz * high
    out = ~plan.takes_part
    assert (plan.cut[out] == -1).all()
    assert plan.bandwidth_hz[out].sum() == plan.energy_j[out].sum() == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), limited=st.booleans())
def test_two_of_three_vehicles_are_as_fast_as_brute_force(seed: int, limited: bool) -> None:
    problem = vehicles(seed, 3, 3, limited)
    assume(vehicles_possible(problem) >= 2)
    plan = solve(problem, 2)
    check(problem, plan)
    assert plan.takes_part.sum() == 2
    share = np.linspace(0.002, 0.998, 250) * problem.bandwidth_total_hz
    power = np.geomspace(1e-3, 1, 100)[:, None] * 0.2
    best = np.inf
    for a, b in combinations(range(3), 2):
        ends = []
        for m, width in ((a, share), (b, problem.bandwidth_total_hz - share)):
            options = []
            for c in range(3):
                gain_over_noise = problem.gain[m] / problem.noise_w_per_hz
                air = problem.upload_bits[m, c] / rate(width, power, gain_over_noise)
                end = problem.fixed_time_s[m, c] + air
                spent = problem.compute_energy_j[m, c] + power * air
                ok = (end <= problem.time_max_s[m]) & (spent <= problem.energy_max_j[m])
                options.append(np.where(ok, end, np.inf).min(axis=0))
            ends.append(np.min(options, axis=0))
        best = min(best, float(np.maximum(*ends).min()))
    assert best >= plan.round_time_s * (1 - 1e-9)
    assert best <= plan.round_time_s * 1.1 or np.isinf(best)


def test_every_cut_vector_of_a_full_round_is_slower_or_equal() -> None:
    for seed in range(5):
        problem = vehicles(seed, 3, 3, limited=False)
        plan = solve(problem)
        assert plan.takes_part.all()
        assert np.allclose(plan.time_s, plan.round_time_s)
        for cuts in product(range(3), repeat=3):
            rows = np.arange(3)
            fixed = problem.fixed_time_s[rows, cuts][:, None]
            bits = problem.upload_bits[rows, cuts][:, None]
            one = VehicleProblem(
                problem.gain,
                0.2,
                np.inf,
                np.inf,
                fixed,
                bits,
                0.0,
                9e6,
                NOISE,  # type: ignore[arg-type]
            )
            assert solve(one).round_time_s >= plan.round_time_s * (1 - 1e-9)


def test_fewer_vehicles_are_faster_and_more_than_possible_are_refused() -> None:
    problem = vehicles(2, 8)
    possible = vehicles_possible(problem)
    assert possible > 2
    times = [solve(problem, n).round_time_s for n in range(1, possible + 1)]
    assert times == sorted(times)
    assert solve(problem).takes_part.sum() == possible
    if possible < 8:
        with pytest.raises(AllocationError, match=rf"{possible} of 8 vehicles can finish"):
            solve(problem, possible + 1)
    with pytest.raises(AllocationError, match="at least one"):
        solve(problem, 0)


def feasible_everywhere(count: int) -> None:
    for seed in range(count):
        problem = vehicles(seed, 1 + seed % 5, 1 + seed % 3, seed % 4 > 0)
        if vehicles_possible(problem):
            check(problem, solve(problem))
        else:
            with pytest.raises(AllocationError, match="0 of"):
                solve(problem)


def test_it_is_feasible_on_random_instances() -> None:
    feasible_everywhere(150)


@pytest.mark.slow
def test_it_is_feasible_on_10_000_random_instances() -> None:
    feasible_everywhere(10_000)


def test_a_faster_link_cuts_earlier() -> None:
    limits = [1e6, 5e6, 2e7, 1e8]
    rates = [1e5, 1e6, 4.9e6, 5e6, 3e7, 1e8, 1e12, 0.0]
    assert cut_by_rate(rates, limits).tolist() == [8, 8, 8, 6, 4, 2, 2, 8]
    assert (np.diff(cut_by_rate(np.geomspace(1e4, 1e10, 99), limits)) <= 0).all()
    assert cut_by_rate([1.0, 3.0], [0.0, 2.0], (5, 1)).tolist() == [5, 1]
    for bad, words in (([1, 2, 3], "3 thresholds"), ([4, 3, 2, 1], "do not rise")):
        with pytest.raises(AllocationError, match=words):
            cut_by_rate(rates, bad)
    with pytest.raises(AllocationError, match="device 1 is NaN"):
        cut_by_rate([1.0, np.nan], limits)


def test_equal_shares_at_the_largest_power_allowed() -> None:
    problem = token_problem(0, 4, 30)
    plan = equal.solve(problem, 7)
    assert violations(problem, plan) == []
    assert (plan.bandwidth_hz == 5e6).all()
    assert (plan.power_w == 0.2).all()
    assert (plan.tokens == 7).all()
    assert plan.ste == pytest.approx(plan.importance / plan.time_s.max())
    capped = token_problem(0, 4, 30, energy_max_j=plan.energy_j / 2)
    frugal = equal.solve(capped, 7)
    assert np.allclose(frugal.energy_j, plan.energy_j / 2)
    with pytest.raises(AllocationError, match="energy_max_j of device 0"):
        equal.solve(token_problem(0, 4, 30, energy_max_j=1e-12))
    with pytest.raises(AllocationError, match="tokens are 31"):
        equal.solve(problem, 31)


def test_participation_is_the_standing_time_at_equal_shares() -> None:
    plan = equal.solve(token_problem(1, 6, 30))
    ends = 0.5 + plan.time_s
    middle = np.sort(ends)[2] * (1 + 1e-6)
    problem = token_problem(1, 6, 30, time_max_s=middle)
    stays = equal.takes_part(problem)
    assert stays.tolist() == (ends <= middle).tolist()
    assert stays.sum() == 3
    assert equal.takes_part(problem, plan).tolist() == stays.tolist()
    assert equal.takes_part(subset(problem, np.flatnonzero(stays))).all()
    assert not equal.takes_part(token_problem(1, 6, 30, time_max_s=0.4)).any()
