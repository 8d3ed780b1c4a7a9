"""Uploads of known size: shortest and cheapest rounds against a convex solver and grids."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from allocate_cases import NOISE, gains, limits
from cutlayer.allocate.device_arrays import subset
from cutlayer.allocate.radio_math import LN2, least_bandwidth, rate
from cutlayer.allocate.uploads import (
    Shares,
    Uploads,
    cheapest,
    energy_slope,
    energy_slope_inverse,
    fastest,
    in_time,
)
from cutlayer.errors import AllocationError


def uploads_of(seed: int, M: int, limited: bool = False) -> Uploads:
    rng = np.random.default_rng(seed)
    caps = limits(rng, M, limited)
    return Uploads(
        payload_bits=10 ** rng.uniform(6, 7.5, M),
        fixed_s=rng.uniform(0, 0.5, M),
        limit_s=np.broadcast_to(caps["time_max_s"], (M,)).astype(float),
        power_max_w=rng.uniform(0.05, 0.3, M),
        energy_max_j=np.broadcast_to(caps["energy_max_j"], (M,)).astype(float),
        gain_over_noise=gains(rng, M) / NOISE,
        band_hz=5e6 * M,
    )


def feasible(uploads: Uploads) -> bool:
    return bool(uploads.needed_hz(np.inf).sum() <= uploads.band_hz)


def check(uploads: Uploads, shares: Shares) -> None:
    time = uploads.payload_bits / rate(shares.bandwidth_hz, shares.power_w, uploads.gain_over_noise)
    end = np.minimum(shares.round_time_s, uploads.limit_s)
    assert (uploads.fixed_s + time <= end * (1 + 1e-9)).all()
    assert (shares.power_w <= uploads.power_max_w * (1 + 1e-9)).all()
    assert (shares.power_w * time <= uploads.energy_max_j * (1 + 1e-8)).all()
    assert shares.bandwidth_hz.sum() <= uploads.band_hz * (1 + 1e-9)
    assert np.allclose(shares.energy_j, shares.power_w * time, rtol=1e-8)


def test_the_energys_slope_has_its_inverse() -> None:
    x = np.logspace(-8, 2.5, 500)
    assert np.abs(energy_slope_inverse(energy_slope(x)) / x - 1).max() < 1e-9
    numeric = (energy_slope(x * (1 + 1e-6)) - energy_slope(x * (1 - 1e-6))) / (2e-6 * x)
    some = x < 50
    assert np.allclose(numeric[some], (x * np.exp(np.minimum(x, 60)))[some], rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), limited=st.booleans())
def test_no_split_on_a_grid_is_faster_than_the_shortest_round(seed: int, limited: bool) -> None:
    uploads = uploads_of(seed, 2, limited)
    assume(feasible(uploads))
    found = fastest(uploads)
    check(uploads, in_time(uploads, found))
    share = np.linspace(0.001, 0.999, 400) * uploads.band_hz
    power = np.geomspace(1e-4, 1, 200)[:, None]
    ends = []
    for m, width in ((0, share), (1, uploads.band_hz - share)):
        p = power * uploads.power_max_w[m]
        time = uploads.payload_bits[m] / rate(width, p, uploads.gain_over_noise[m])
        ok = (p * time <= uploads.energy_max_j[m]) & (
            uploads.fixed_s[m] + time <= uploads.limit_s[m]
        )
        ends.append(np.where(ok, uploads.fixed_s[m] + time, np.inf).min(axis=0))
    grid = float(np.maximum(*ends).min())
    assert grid >= found * (1 - 1e-9)
    assert grid <= found * 1.1 or np.isinf(grid)


def test_the_least_energy_in_a_round_is_a_convex_solvers() -> None:
    cp = pytest.importorskip("cvxpy")
    compared = 0
    for seed in range(12):
        uploads = uploads_of(seed, 4, limited=seed % 2 == 0)
        if not feasible(uploads):
            continue
        tau = fastest(uploads) * (1.02 + 0.5 * (seed % 4))
        air = uploads.air_time(tau)
        shares = in_time(uploads, tau)
        check(uploads, shares)
        # W = w band, energy e: S <= w t band log2(1 + e gain_over_noise / (w t band)).
        w, e = cp.Variable(4, nonneg=True), cp.Variable(4, nonneg=True)
        z = cp.multiply(w, air)
        reach = cp.multiply(e, uploads.gain_over_noise / uploads.band_hz)
        bits = -cp.rel_entr(z, z + reach)
        rules = [
            bits >= uploads.payload_bits * LN2 / uploads.band_hz,
            cp.sum(w) <= 1,
            e <= np.minimum(uploads.power_max_w * air, np.minimum(uploads.energy_max_j, 1e6)),
        ]
        task = cp.Problem(cp.Minimize(cp.sum(e)), rules)
        task.solve(solver=cp.CLARABEL)
        assert shares.energy_j.sum() == pytest.approx(task.value, rel=2e-5)
        compared += 1
    assert compared >= 8


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    limited=st.booleans(),
    energy_weight=st.sampled_from([0.01, 0.3, 1.0, 30.0]),
)
def test_no_round_time_is_cheaper_than_the_one_found(
    seed: int, limited: bool, energy_weight: float
) -> None:
    uploads = uploads_of(seed, 3, limited)
    assume(feasible(uploads))
    found = cheapest(uploads, 1.0, energy_weight)
    check(uploads, found)
    cost = found.round_time_s + energy_weight * found.energy_j.sum()
    for stretch in np.geomspace(1, 50, 25):
        tau = min(fastest(uploads) * stretch, float(uploads.limit_s.max()))
        other = in_time(uploads, tau)
        assert cost <= (tau + energy_weight * other.energy_j.sum()) * (1 + 1e-6)


def test_no_bandwidth_and_power_on_a_grid_is_cheaper() -> None:
    for seed in range(6):
        uploads = uploads_of(seed, 2)
        found = cheapest(uploads, 0.5, 0.5)
        cost = 0.5 * found.round_time_s + 0.5 * found.energy_j.sum()
        share = np.linspace(0.005, 0.995, 150) * uploads.band_hz
        times, energies = [], []
        for m, width in ((0, share), (1, uploads.band_hz - share)):
            p = np.geomspace(1e-3, 1, 120)[:, None] * uploads.power_max_w[m]
            time = uploads.payload_bits[m] / rate(width, p, uploads.gain_over_noise[m])
            times.append(uploads.fixed_s[m] + time)
            energies.append(p * time)
        best = min(
            float(
                (
                    0.5 * np.maximum(times[0][a], times[1][b])
                    + 0.5 * (energies[0][a] + energies[1][b])
                ).min()
            )
            for a, b in product(range(120), repeat=2)
        )
        assert cost <= best * (1 + 1e-9)
        assert best <= cost * 1.05


def test_a_device_with_nothing_to_send_takes_no_bandwidth() -> None:
    uploads = replace(uploads_of(0, 3), payload_bits=np.array([1e6, 0.0, 2e6]))
    shares = cheapest(uploads, 1.0, 1.0)
    assert shares.bandwidth_hz[1] == shares.energy_j[1] == 0
    assert shares.bandwidth_hz.sum() == pytest.approx(uploads.band_hz)


def test_the_least_bandwidth_suits_the_round() -> None:
    uploads = uploads_of(1, 5)
    tau = fastest(uploads)
    need = least_bandwidth(
        uploads.payload_bits,
        tau - uploads.fixed_s,
        uploads.power_max_w,
        np.inf,
        uploads.gain_over_noise,
    )
    assert need.sum() == pytest.approx(uploads.band_hz, rel=1e-9)


def test_what_is_in_the_way_is_named() -> None:
    base = uploads_of(0, 3)
    for changes, words in (
        ({"limit_s": np.array([9.0, 0.2, 9.0]), "fixed_s": np.full(3, 0.3)}, "limit of device 1"),
        ({"energy_max_j": np.array([9.0, 9.0, 1e-12])}, "energy of device 2"),
        ({"limit_s": np.full(3, 1.0), "band_hz": 4e5}, "bandwidth is|time limit of device"),
    ):
        with pytest.raises(AllocationError, match=words):
            fastest(replace(base, **changes))
    with pytest.raises(AllocationError, match="never end"):
        cheapest(base, 0.0, 1.0)


def test_sentences_name_devices_by_their_numbers_in_any_subset() -> None:
    poor = replace(uploads_of(0, 3), energy_max_j=np.array([9.0, 9.0, 1e-12]))
    for uploads, named in (
        (subset(poor, [1, 2]), 2),  # its place in the problem that it was taken from
        (replace(poor, numbers=[40, 30, 20]), 20),
        (subset(replace(poor, numbers=[40, 30, 20]), [2, 0]), 20),
    ):
        with pytest.raises(AllocationError, match=f"energy of device {named} is"):
            fastest(uploads)
    with pytest.raises(AllocationError, match=r"numbers has shape \(2,\): give .* of 3 devices"):
        replace(poor, numbers=[40, 30])
