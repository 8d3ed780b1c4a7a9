"""Rates are Shannon's, noise is thermal, and fading has the mean and spread it should have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.seeds import numpy_rng
from cutlayer.world.channel import Radio, noise_w_per_hz, power_gain, rayleigh, rician

N0 = noise_w_per_hz()


def test_thermal_noise_is_that_of_room_temperature():
    assert noise_w_per_hz() == pytest.approx(1.380649e-23 * 290, rel=0.01)  # k T
    assert noise_w_per_hz(-174, 9) == pytest.approx(N0 * 7.943, rel=1e-3)


def test_a_snr_of_15_carries_4_bits_per_hertz():
    width = 1e6
    gain = 15 * N0 * width / 0.2
    assert Radio(N0).rate_bps(width, 0.2, gain) == pytest.approx(4e6)
    assert Radio(N0, snr_gap=5).rate_bps(width, 0.2, gain) == pytest.approx(2e6)
    assert Radio(N0, max_bps_per_hz=3.0).rate_bps(width, 0.2, gain) == pytest.approx(3e6)


def test_no_bandwidth_and_no_power_carry_nothing():
    assert Radio(N0).rate_bps([0.0, 1e6, 0.0], [0.2, 0.0, 0.0], 1e-9).tolist() == [0, 0, 0]


def test_a_very_wide_band_carries_the_power_limited_rate():
    received = 0.2 * 1e-15
    limit = received / (N0 * np.log(2))
    assert Radio(N0).rate_bps(1e15, 0.2, 1e-15) == pytest.approx(limit, rel=1e-3)


@settings(max_examples=100, deadline=None)
@given(
    width=st.floats(1e3, 1e9),
    power=st.floats(1e-3, 10),
    loss=st.floats(30, 160),
    factor=st.floats(1, 100),
)
def test_more_bandwidth_power_or_gain_never_lowers_the_rate(width, power, loss, factor):
    radio, gain = Radio(N0), power_gain(loss)
    rate = radio.rate_bps(width, power, gain)
    for better in (
        radio.rate_bps(width * factor, power, gain),
        radio.rate_bps(width, power * factor, gain),
        radio.rate_bps(width, power, gain * factor),
    ):
        assert better >= rate * (1 - 1e-12)
    # Halves of the band with all the power each would carry more than half: R is concave in W.
    assert 2 * radio.rate_bps(width / 2, power, gain) >= rate * (1 - 1e-12)


def test_a_broadcast_goes_at_the_rate_of_the_worst():
    radio, gain = Radio(N0), power_gain([80.0, 120.0, 100.0])
    assert radio.broadcast_bps(5e7, 1.0, gain) == radio.rate_bps(5e7, 1.0, gain[1])


def test_gain_is_loss_antennas_and_fading():
    assert power_gain([100.0], 6.0, [2.0]) == pytest.approx([2 * 10**-9.4])


def test_rayleigh_power_is_exponential_with_mean_1():
    power = rayleigh(numpy_rng(0, "fading"), 200_000)
    assert power.mean() == pytest.approx(1, abs=0.01)
    for level in (0.01, 0.1, 1.0, 3.0):
        assert (power < level).mean() == pytest.approx(1 - np.exp(-level), abs=0.005)


@pytest.mark.parametrize("k_db", [-60.0, 0.0, 6.0, 20.0])
def test_rician_power_has_mean_1_and_the_spread_of_its_k(k_db):
    power, k = rician(numpy_rng(1, "fading"), 200_000, k_db), 10 ** (k_db / 10)
    assert power.mean() == pytest.approx(1, abs=0.01)
    # variance (2K + 1) / (K + 1)^2; Rayleigh's 1 as K goes to 0
    assert power.var() == pytest.approx((2 * k + 1) / (k + 1) ** 2, rel=0.03)
    assert (power >= 0).all()
