"""`auto` against brute force over options, bandwidth, power and round time."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocate_cases import NOISE, gains, limits
from cutlayer.allocate.auto import AutoPlan, solve
from cutlayer.allocate.options import OPTION_COSTS, OptionProblem
from cutlayer.allocate.radio_math import rate
from cutlayer.allocate.uploads import Uploads, cheapest
from cutlayer.errors import AllocationError

SHAPE = (3, 3, 2)


def option_problem(seed: int, M: int, limited: bool = False, **changes: object) -> OptionProblem:
    rng = np.random.default_rng(seed)
    cuts, tokens, bits = np.array([1, 3, 6]), np.array([8, 20, 49]), np.array([4, 8])
    kept = (tokens + 2)[None, :, None]
    quality = 1 - 0.3 / cuts[:, None, None] / np.sqrt(tokens[None, :, None]) - 0.1 / 2.0**bits
    values: dict[str, object] = {
        "gain": gains(rng, M),
        "power_max_w": 0.2,
        **limits(rng, M, limited),
        "fixed_time_s": 0.05,
        "flops_per_s": rng.uniform(0.5, 4, M) * 1e12,
        "joules_per_flop": 1e-14,
        "memory_max_bytes": np.where(rng.uniform(size=M) < 0.3, 2.5e8, np.inf),
        "downlink_bps": 1e8,
        "quality": quality + 0.005 * rng.standard_normal(SHAPE),
        "device_flops": (cuts * 64 * 5e9)[:, None, None],
        "payload_bits": 64 * 384 * kept * bits + (cuts * 3e6)[:, None, None],
        "memory_bytes": (cuts * 6e7)[:, None, None],
        "server_time_s": 0.01,
        "downlink_bits": 64 * 384 * kept * 8.0,
        "quality_min": 0.94,
        "bandwidth_total_hz": 3e6 * M,
        "noise_w_per_hz": NOISE,
    }
    values.update(changes)
    return OptionProblem(**values)  # type: ignore[arg-type]


def option_uploads(problem: OptionProblem, choice: np.ndarray) -> tuple[Uploads, np.ndarray]:
    """The uploads of flat options [M], and the compute energy; written out again."""

    def of(name: str) -> np.ndarray:
        return getattr(problem, name).ravel()[choice]

    fixed = problem.fixed_time_s + of("device_flops") / problem.flops_per_s
    fixed = fixed + of("server_time_s") + of("downlink_bits") / problem.downlink_bps
    compute = of("device_flops") * problem.joules_per_flop
    uploads = Uploads(
        of("payload_bits"),
        fixed,
        problem.time_max_s,
        problem.power_max_w,
        problem.energy_max_j - compute,
        problem.gain / problem.noise_w_per_hz,
        problem.bandwidth_total_hz,
    )
    return uploads, compute


def chosen(problem: OptionProblem, plan: AutoPlan) -> np.ndarray:
    return np.ravel_multi_index((plan.cut, plan.tokens, plan.bits), problem.quality.shape)


def check(problem: OptionProblem, plan: AutoPlan) -> None:
    m = np.flatnonzero(plan.takes_part)
    uploads, compute = option_uploads(problem, chosen(problem, plan))
    gain_over_noise = problem.gain / problem.noise_w_per_hz
    time = uploads.payload_bits[m] / rate(plan.bandwidth_hz[m], plan.power_w[m], gain_over_noise[m])
    high = 1 + 1e-8
    end = uploads.fixed_s[m] + time
    assert (end <= np.minimum(plan.round_time_s, problem.time_max_s[m]) * high).all()
    assert (compute[m] + plan.power_w[m] * time <= problem.energy_max_j[m] * high).all()
    assert np.allclose(plan.energy_j[m], compute[m] + plan.power_w[m] * time)
    assert (plan.power_w <= problem.power_max_w * high).all()
    assert plan.bandwidth_hz.sum() <= problem.bandwidth_total_hz * high
    assert (plan.quality[m] >= problem.quality_min).all()
    memory = problem.memory_bytes.ravel()[chosen(problem, plan)]
    assert (memory <= problem.memory_max_bytes)[m].all()
    assert plan.lower_bound <= plan.objective


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    limited=st.booleans(),
    weights=st.sampled_from([(1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 0.0, 1e-7), (1.0, 5.0, 1e-8)]),
)
def test_no_options_bandwidth_and_power_are_better(
    seed: int, limited: bool, weights: tuple[float, float, float]
) -> None:
    problem = option_problem(seed, 2, limited, quality_min=0.965)
    time_weight, energy_weight, bits_weight = weights
    best = np.inf
    enough = np.flatnonzero(problem.quality.ravel() >= problem.quality_min)
    for choice in product(enough, repeat=2):
        uploads, compute = option_uploads(problem, np.array(choice))
        if (problem.memory_bytes.ravel()[list(choice)] > problem.memory_max_bytes).any():
            continue
        if (uploads.energy_max_j <= 0).any():
            continue
        try:
            shares = cheapest(uploads, time_weight, energy_weight)
        except AllocationError:
            continue
        cost = time_weight * shares.round_time_s + bits_weight * uploads.payload_bits.sum()
        best = min(best, cost + energy_weight * (shares.energy_j.sum() + compute.sum()))
    if np.isinf(best):
        with pytest.raises(AllocationError):
            solve(problem)
        return
    plan = solve(
        problem, time_weight=time_weight, energy_weight=energy_weight, bits_weight=bits_weight
    )
    check(problem, plan)
    assert plan.lower_bound <= best * (1 + 1e-6)
    assert plan.objective >= best * (1 - 1e-6)
    assert plan.objective <= best * (1 + max(plan.gap, 1e-6) + 1e-9)
    if energy_weight == bits_weight == 0:
        assert plan.objective == pytest.approx(best, rel=1e-9)
    else:
        assert plan.objective <= best * 1.02


def test_the_uploads_it_makes_are_no_slower_than_a_grids() -> None:
    problem = option_problem(1, 2)
    plan = solve(problem)
    uploads, _ = option_uploads(problem, chosen(problem, plan))
    share = np.linspace(0.001, 0.999, 3000) * problem.bandwidth_total_hz
    ends = [
        uploads.fixed_s[m] + uploads.payload_bits[m] / rate(width, 0.2, uploads.gain_over_noise[m])
        for m, width in ((0, share), (1, problem.bandwidth_total_hz - share))
    ]
    grid = float(np.maximum(*ends).min())
    assert plan.round_time_s <= grid <= plan.round_time_s * 1.005


def test_the_gap_is_small_with_ten_devices() -> None:
    for seed in range(2):
        plan = solve(option_problem(seed, 10), energy_weight=1.0)
        assert 0 <= plan.gap < 0.03


def test_weights_move_the_plan_where_they_should() -> None:
    problem = option_problem(3, 8)
    quick = solve(problem)
    frugal = solve(problem, energy_weight=20.0)
    small = solve(problem, bits_weight=1e-5)
    assert quick.round_time_s < frugal.round_time_s
    assert frugal.energy_j.sum() < quick.energy_j.sum()
    assert small.payload_bits.sum() <= quick.payload_bits.sum()
    assert quick.gap == pytest.approx(0, abs=1e-9)


def test_what_the_server_holds_of_a_device_costs_its_names_alone() -> None:
    problem = option_problem(3, 5)
    fresh = solve(problem)
    held = np.zeros((5, *SHAPE), dtype=bool)
    held[2, 2, 2, 1] = True  # the option of the most bytes and FLOPs, of one device
    again = solve(replace(problem, held=held, named_bits=8.0))
    assert (again.cut[2], again.tokens[2], again.bits[2]) == (2, 2, 1)
    assert again.payload_bits[2] == 8.0
    others = [0, 1, 3, 4]
    assert (again.payload_bits[others] == fresh.payload_bits[others]).all()
    assert again.round_time_s < fresh.round_time_s


def test_a_higher_quality_takes_longer() -> None:
    times = [
        solve(option_problem(3, 6, quality_min=q)).round_time_s for q in (0.85, 0.93, 0.97, 0.985)
    ]
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_it_is_deterministic() -> None:
    first, again = (solve(option_problem(5, 12), energy_weight=1.0) for _ in range(2))
    assert np.array_equal(first.bandwidth_hz, again.bandwidth_hz)
    assert np.array_equal(first.cut, again.cut)


def feasible_everywhere(count: int) -> None:
    solved = 0
    for seed in range(count):
        problem = option_problem(seed, 1 + seed % 4, limited=seed % 2 == 0)
        try:
            plan = solve(problem, energy_weight=(0.0, 0.0, 0.0, 1.0)[seed % 4], drop=seed % 3 == 0)
        except AllocationError:
            continue
        check(problem, plan)
        solved += 1
    assert solved > 0.5 * count


def test_it_is_feasible_on_random_instances() -> None:
    feasible_everywhere(60)


@pytest.mark.slow
def test_it_is_feasible_on_10_000_random_instances() -> None:
    feasible_everywhere(10_000)


def test_devices_that_cannot_are_named_or_left_out() -> None:
    two = np.array
    for changes, words in (
        (
            {"memory_max_bytes": two([1e3, np.inf])},
            "memory_max_bytes of device 0 is 1000: .* take",
        ),
        ({"energy_max_j": two([np.inf, 1e-9])}, "energy_max_j of device 1 .* more than"),
        ({"time_max_s": two([np.inf, 0.08])}, "time_max_s of device 1 is 0.08: .* needs"),
        ({"quality_min": 1.1}, "quality_min is 1.1: the best measured is 0.9.*: lower it, or"),
        (
            {"barred": two([[False] * 3, [True] * 3])},
            "device 1 can compute none of the options of enough quality: lower quality_min,",
        ),
    ):
        problem = option_problem(0, 2, **changes)
        with pytest.raises(AllocationError, match=words):
            solve(problem)
        if "quality_min" in changes:
            continue
        plan = solve(problem, drop=True)
        check(problem, plan)
        assert plan.takes_part.sum() == 1
    with pytest.raises(AllocationError, match="no device can take part: memory"):
        solve(option_problem(0, 2, memory_max_bytes=1.0), drop=True)
    with pytest.raises(AllocationError, match="never end"):
        solve(option_problem(0, 2), time_weight=0.0, energy_weight=1.0)


def test_a_crowded_band_drops_those_that_need_most() -> None:
    problem = option_problem(2, 6, time_max_s=4.0, bandwidth_total_hz=3e5)
    plan = solve(problem, drop=True)
    check(problem, plan)
    assert 0 < plan.takes_part.sum() < 6
    with pytest.raises(AllocationError, match=r"bandwidth_total_hz is 300000: within"):
        solve(problem)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    limited=st.booleans(),
    speed=st.sampled_from([0.5, 1.0, 3.0]),
    lost=st.sampled_from([0.0, 0.01]),
    weights=st.sampled_from([(1.0, 0.0, 0.0), (1.0, 5.0, 1e-8)]),
)
def test_a_second_precision_never_costs_more_and_is_given_to_no_device_that_lacks_it(
    seed: int, limited: bool, speed: float, lost: float, weights: tuple[float, float, float]
) -> None:
    plain = option_problem(seed, 4, limited)
    barred = np.zeros((4, 2 * SHAPE[0]), dtype=np.bool_)
    barred[:, SHAPE[0] :] = np.random.default_rng(seed).uniform(size=(4, 1)) < 0.5

    def twice(values: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.concatenate([values, other])

    both = replace(
        plain,
        quality=twice(plain.quality, plain.quality - lost),
        device_flops=twice(plain.device_flops, plain.device_flops / speed),
        barred=barred,
        held=False,
        **{
            name: twice(getattr(plain, name), getattr(plain, name))
            for name in OPTION_COSTS
            if name != "device_flops"
        },
    )
    time_weight, energy_weight, bits_weight = weights
    costs = {
        "time_weight": time_weight, "energy_weight": energy_weight, "bits_weight": bits_weight,
    }  # fmt: skip
    try:
        first = solve(plain, **costs)
    except AllocationError:
        return
    plan = solve(both, **costs)
    check(both, plan)
    assert not barred[np.arange(4), plan.cut].any()
    assert plan.objective <= first.objective * (1 + 2e-3)
    if speed < 1:  # what is slower and no better is not taken at all
        assert (plan.cut < SHAPE[0]).all()
