"""GenFV's three solvers against brute force: who takes part, the radio, the generated amount."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from allocate_cases import NOISE, gains, limits
from cutlayer.allocate.device_arrays import subset
from cutlayer.allocate.genfv import emd, generated_amount, select, share_band
from cutlayer.allocate.radio_math import rate
from cutlayer.allocate.uploads import Uploads
from cutlayer.errors import AllocationError


def vehicles(seed: int, M: int, limited: bool = True) -> tuple[Uploads, np.ndarray]:
    """A round of M vehicles, and their EMDs."""
    rng = np.random.default_rng(seed)
    caps = limits(rng, M, limited)
    uploads = Uploads(
        payload_bits=10 ** rng.uniform(6, 7.5, M),
        fixed_s=rng.uniform(0.1, 1.5, M),
        limit_s=np.broadcast_to(caps["time_max_s"], M),
        power_max_w=np.full(M, 0.2),
        energy_max_j=np.broadcast_to(caps["energy_max_j"], M),
        gain_over_noise=gains(rng, M) / NOISE,
        band_hz=float(rng.choice([0.3e6, 3e6]) * M),
    )
    return uploads, rng.uniform(0, 2, M)


def test_emd_is_0_for_the_same_mix_and_2_for_no_class_in_common() -> None:
    counts = np.array([[2, 2, 0], [10, 10, 0], [0, 0, 7], [0, 0, 0]])
    assert emd(counts, [50, 50, 0]).tolist() == [0, 0, 2, pytest.approx(2 / 3)]


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), M=st.integers(1, 6), distance_max=st.floats(0, 2))
def test_no_larger_set_of_near_vehicles_can_be_in_time(
    seed: int, M: int, distance_max: float
) -> None:
    uploads, distance = vehicles(seed, M)
    chosen = select(uploads, distance, distance_max)
    near = [m for m in range(M) if distance[m] <= distance_max]
    assert not chosen[distance > distance_max].any()
    if chosen.any():
        share_band(subset(uploads, np.flatnonzero(chosen)))  # they can
    for larger in combinations(near, int(chosen.sum()) + 1):
        with pytest.raises(AllocationError):
            share_band(subset(uploads, np.array(larger)))


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), limited=st.booleans())
def test_two_vehicles_are_as_fast_as_brute_force(seed: int, limited: bool) -> None:
    uploads, distance = vehicles(seed, 2, limited)
    assume(select(uploads, distance, 2.0).all())
    plan = share_band(uploads)
    share = np.linspace(0.002, 0.998, 400) * uploads.band_hz
    power = np.geomspace(1e-3, 1, 200)[:, None] * 0.2
    ends = []
    for m, width in enumerate((share, uploads.band_hz - share)):
        air = uploads.payload_bits[m] / rate(width, power, uploads.gain_over_noise[m])
        end = uploads.fixed_s[m] + air
        ok = (end <= uploads.limit_s[m]) & (power * air <= uploads.energy_max_j[m])
        ends.append(np.where(ok, end, np.inf).min(axis=0))
    best = float(np.maximum(*ends).min())
    assert best >= plan.round_time_s * (1 - 1e-9)
    assert best <= plan.round_time_s * 1.1 or np.isinf(best)


def feasible_everywhere(count: int) -> None:
    high, planned = 1 + 1e-8, 0
    for seed in range(count):
        uploads, distance = vehicles(seed, 1 + seed % 9, seed % 4 > 0)
        chosen = select(uploads, distance, 1.5)
        if not chosen.any():
            continue
        some = subset(uploads, np.flatnonzero(chosen))
        plan = share_band(some)
        planned += 1
        sent = some.payload_bits / rate(plan.bandwidth_hz, plan.power_w, some.gain_over_noise)
        assert (some.fixed_s + sent <= plan.round_time_s * high).all()
        assert (some.fixed_s + sent <= some.limit_s * high).all()
        assert (plan.power_w <= some.power_max_w * high).all()
        assert (plan.power_w * sent <= some.energy_max_j * high).all()
        assert plan.bandwidth_hz.sum() <= some.band_hz * high
        # Nobody could be given more power, or finish together any sooner.
        spends = (plan.power_w >= some.power_max_w / high) | (
            plan.energy_j >= some.energy_max_j / high
        )
        assert spends.all()
        assert plan.bandwidth_hz.sum() >= some.band_hz * (1 - 1e-6)
        end = np.minimum(plan.round_time_s, some.limit_s)
        assert np.allclose(some.fixed_s + sent, end, rtol=1e-8)
    assert planned > count / 3


def test_it_is_feasible_and_tight_on_random_instances() -> None:
    feasible_everywhere(300)


@pytest.mark.slow
def test_it_is_feasible_and_tight_on_10_000_random_instances() -> None:
    feasible_everywhere(10_000)


@settings(max_examples=300)
@given(
    room_s=st.floats(0, 1e4),
    image_s=st.sampled_from([0.0, 1e-6, 0.1, 1 / 3]) | st.floats(0, 100),
    training_s=st.sampled_from([0.0, 0.7, 1e-7]) | st.floats(0, 100),
    most=st.integers(1, 500),
)
def test_generation_fills_the_room_and_never_more(
    room_s: float, image_s: float, training_s: float, most: int
) -> None:
    amount = generated_amount(room_s, image_s, training_s, most)
    each = image_s + training_s
    assert 0 <= amount <= most
    assert amount * each <= room_s
    fit = [b for b in range(most + 1) if b * each <= room_s]
    # One image less than fits is all that rounding may cost.
    assert max(fit) - 1 <= amount <= max(fit)
