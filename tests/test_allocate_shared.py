"""The radio arithmetic of the allocators: inverses that invert, roots that are roots."""

import numpy as np
import pytest

from cutlayer.allocate.radio_math import (
    LN2,
    bandwidth_for_rate,
    least_bandwidth,
    least_feasible,
    marginal_rate,
    power_for_deadline,
    power_in_time,
    power_under_energy,
    rate,
    snr_of_marginal,
    snr_root,
)


def links(count: int = 20_000, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return (
        10 ** rng.uniform(-2, 10, count),  # Hz
        10 ** rng.uniform(-6, 2, count),  # W
        10 ** rng.uniform(2, 14, count),  # Hz per W
    )


def test_the_root_solves_its_equation_over_250_orders_of_magnitude() -> None:
    c = np.concatenate([np.logspace(-250, -1e-9, 4000), 1 - np.logspace(-10, -1, 400)])
    y = snr_root(c)
    assert np.abs(np.log1p(y) / (c * y) - 1).max() < 1e-15
    assert (y > 0).all()
    assert snr_root([0.0, -1.0, 1.0, 3.0]).tolist() == [np.inf, np.inf, 0.0, 0.0]


def test_bandwidth_inverts_the_rate_to_1e_12_and_grows_with_it() -> None:
    bandwidth, power, gain_over_noise = links()
    wanted = rate(bandwidth, power, gain_over_noise)
    found = bandwidth_for_rate(wanted, power, gain_over_noise)
    assert np.abs(rate(found, power, gain_over_noise) / wanted - 1).max() < 1e-12
    rates = np.linspace(0, 0.999, 2000) * 0.1 * 1e8 / LN2
    assert (np.diff(bandwidth_for_rate(rates, 0.1, 1e8)) > 0).all()
    assert bandwidth_for_rate([0.0, 0.1 * 1e8 / LN2], 0.1, 1e8).tolist() == [0.0, np.inf]


def test_power_under_an_energy_cap_spends_just_the_cap() -> None:
    bandwidth, _, gain_over_noise = links()
    payload = 1e6
    least = payload * LN2 / gain_over_noise
    cap = least * (1 + 10 ** np.random.default_rng(1).uniform(-3, 6, len(gain_over_noise)))
    power = power_under_energy(payload, bandwidth, cap, gain_over_noise)
    energy = power * payload / rate(bandwidth, power, gain_over_noise)
    assert np.abs(energy / cap - 1).max() < 1e-11
    assert (power_under_energy(payload, bandwidth, least * 0.999, gain_over_noise) == 0).all()
    assert np.isinf(power_under_energy(payload, 1e6, np.inf, 1e8))


def test_power_for_a_deadline_meets_it_to_the_second() -> None:
    bandwidth, _, gain_over_noise = links()
    payload = bandwidth * np.random.default_rng(2).uniform(0.01, 20, len(gain_over_noise))
    power = power_for_deadline(payload, 2.0, bandwidth, gain_over_noise)
    assert np.abs(payload / rate(bandwidth, power, gain_over_noise) / 2.0 - 1).max() < 1e-9
    assert power_for_deadline(1e6, 0.0, 1e6, 1e8) == np.inf


def test_no_power_on_a_grid_needs_less_than_the_least_bandwidth() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        gain_over_noise, p_max, t = (
            10 ** rng.uniform(6, 9),
            10 ** rng.uniform(-2, 0),
            rng.uniform(0.1, 5),
        )
        payload = rng.uniform(0.01, 0.9) * t * p_max * gain_over_noise / LN2
        cap = payload * LN2 / gain_over_noise * (1 + 10 ** rng.uniform(-2, 2))
        least = float(least_bandwidth(payload, t, p_max, cap, gain_over_noise))
        powers = np.linspace(1e-4, 1, 4000)[:, None] * p_max
        widths = least * np.linspace(0.5, 1.5, 201)
        speed = rate(widths, powers, gain_over_noise)
        fits = (payload / speed <= t) & (powers * payload / speed <= cap)
        assert not fits[:, widths < least * (1 - 1e-9)].any()
        power = float(power_in_time(t, p_max, cap))
        time = payload / float(rate(least, power, gain_over_noise))
        assert time == pytest.approx(t, rel=1e-9)
        assert power * time <= cap * (1 + 1e-9)
        assert fits.any()


def test_the_least_bandwidth_is_convex_in_the_payload_and_falls_with_time() -> None:
    payloads = np.linspace(1e5, 5e6, 400)
    need = least_bandwidth(payloads, 1.0, 0.1, 0.08, 2e8)
    assert np.isfinite(need).all()
    assert (np.diff(need, 2) > 0).all()
    over_time = least_bandwidth(1e6, np.geomspace(0.1, 100, 300), 0.1, 0.08, 2e8)
    finite = over_time[np.isfinite(over_time)]
    assert (np.diff(finite) < 0).all()
    assert least_bandwidth(1e6, [0.0, -1.0], 0.1, np.inf, 1e8).tolist() == [np.inf, np.inf]
    assert least_bandwidth(1e6, np.inf, 0.1, [np.inf, 1e-9], 1e8).tolist() == [0.0, np.inf]


def test_the_least_bandwidth_is_jointly_convex_in_payload_rate_and_inverse_time() -> None:
    rng = np.random.default_rng(4)
    s, v = rng.uniform(0.1, 3, (2, 4000)), rng.uniform(1e4, 3e6, (2, 4000))

    def need(s: np.ndarray, v: np.ndarray) -> np.ndarray:
        return least_bandwidth(v / s, 1 / s, 0.1, 0.08, 2e8)

    ends = need(s, v).mean(axis=0)
    middle = need(s.mean(axis=0), v.mean(axis=0))
    assert (middle <= ends * (1 + 1e-12)).all()


def test_the_marginal_rate_is_the_rates_derivative_and_has_an_inverse() -> None:
    snr = np.logspace(-10, 6, 2000)
    slope = marginal_rate(snr)
    assert np.abs(snr_of_marginal(slope) / snr - 1).max() < 1e-11
    width, step = 1.0, 1e-6
    some = snr[(snr > 1e-2) & (snr < 1e3)]
    reach = some * width
    numeric = (rate(width + step, 1.0, reach) - rate(width - step, 1.0, reach)) / (2 * step)
    assert np.allclose(numeric, marginal_rate(some), rtol=1e-4)


def test_the_search_ends_on_the_feasible_side_beside_the_root() -> None:
    roots = np.logspace(-8, 8, 60)

    def excess(x: np.ndarray) -> np.ndarray:
        return np.where(x < roots / 3, np.inf, np.log(roots / x))

    found = least_feasible(excess, roots * 1e-9, roots * 1e7)
    assert (excess(found) <= 0).all()
    assert np.abs(found / roots - 1).max() < 1e-12
    assert least_feasible(lambda x: x * 0 - 1.0, 2.0, 5.0) == pytest.approx(2.0)
