"""Path loss is that of the formulas, of 3GPP TR 38.901 and of other implementations of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.world.pathloss import (
    breakpoint_m,
    free_space_db,
    line_of_sight_probability,
    log_distance_db,
    server_height_m,
    shadowing_std_db,
    urban_db,
)

SCENARIOS = ["umi", "uma"]
# Table 7.4.1-1 at 5 GHz, h_UT 1.5 m, at 10, 100, 1000 and 5000 m on the ground, as tabulated in
# the tests of ns-3's three-gpp-propagation-loss-model.
TABULATED = {
    ("umi", True): [69.8591, 88.4122, 119.3114, 147.2696],
    ("umi", False): [76.7563, 107.9432, 143.1886, 167.8617],
    ("uma", True): [72.9380, 86.2362, 109.7252, 137.6794],
    ("uma", False): [82.5131, 106.1356, 144.7641, 172.0753],
}


@pytest.mark.parametrize(("scenario", "clear"), TABULATED)
def test_urban_loss_is_the_tabulated_one_on_both_sides_of_the_breakpoint(scenario, clear):
    loss = urban_db(scenario, [10, 100, 1000, 5000], clear, 5e9)
    assert loss == pytest.approx(TABULATED[scenario, clear], abs=1e-4)


def test_the_breakpoint_is_that_of_note_1():
    # 4 * 9 * 0.5 * 3.5e9 / 3e8 and 4 * 24 * 0.5 * 3.5e9 / 3e8
    assert breakpoint_m(3.5e9, 10, 1.5) == pytest.approx(210)
    assert breakpoint_m(3.5e9, 25, 1.5) == pytest.approx(560)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_loss_has_no_step_at_the_breakpoint(scenario):
    # The table's PL1 and PL2 meet at d_3D = sqrt(d_BP^2 + (h_BS - h_UT)^2).
    bend = breakpoint_m(2e9, server_height_m(scenario), 1.5)
    below, above = urban_db(scenario, [bend * (1 - 1e-9), bend * (1 + 1e-9)], True, 2e9)
    assert above == pytest.approx(below, abs=1e-6)


@pytest.mark.parametrize(
    ("scenario", "distance", "probability"),
    [
        # table 7.4.2-1: 1 up to 18 m, then 18/d + exp(-d/36 or -d/63) (1 - 18/d)
        ("umi", 5, 1),
        ("umi", 18, 1),
        ("umi", 36, 0.5 + 0.5 / np.e),
        ("umi", 180, 0.1 + 0.9 * np.exp(-5)),
        ("uma", 18, 1),
        ("uma", 63, 2 / 7 + 5 / 7 / np.e),
        ("uma", 630, 1 / 35 + 34 / 35 * np.exp(-10)),
    ],
)
def test_line_of_sight_probability_is_that_of_clause_7_4_2(scenario, distance, probability):
    assert line_of_sight_probability(scenario, distance) == pytest.approx(probability)


def test_an_obstructed_path_is_never_the_better_one():
    # Just below a UMa mast the formula of the obstructed path gives 53.3 dB, the clear one 54.3.
    clear, blocked = urban_db("uma", [10, 10], [True, False], 1e9, device_m=13)
    assert blocked == clear == pytest.approx(28 + 22 * np.log10(np.hypot(10, 12)))


def test_shadow_fading_is_that_of_the_table():
    clear = np.array([True, False])
    assert shadowing_std_db("umi", clear).tolist() == [4.0, 7.82]
    assert shadowing_std_db("uma", clear).tolist() == [4.0, 6.0]


@settings(max_examples=100, deadline=None)
@given(
    scenario=st.sampled_from(SCENARIOS),
    near=st.floats(0, 5000),
    more=st.floats(0, 5000),
    carrier=st.floats(0.5e9, 100e9),
    height=st.floats(1.5, 13),
)
def test_urban_loss_grows_with_distance_and_with_obstruction(scenario, near, more, carrier, height):
    for clear in (True, False):
        first, second = urban_db(scenario, [near, near + more], clear, carrier, device_m=height)
        assert second >= first - 1e-9
    assert urban_db(scenario, near, False, carrier, device_m=height) >= urban_db(
        scenario, near, True, carrier, device_m=height
    )
    first, second = line_of_sight_probability(scenario, [near, near + more])
    assert 0 <= second <= first <= 1


def test_free_space_loss_is_friis():
    # 20 log10(d in km) + 20 log10(f in MHz) + 32.4478 (ITU-R P.525)
    assert free_space_db(1000, 1e6) == pytest.approx(32.4478, abs=1e-3)
    assert free_space_db(1, 3.5e9) == pytest.approx(43.33, abs=5e-3)


def test_log_distance_starts_at_the_reference_and_has_its_slope():
    loss = log_distance_db([0.1, 1, 10, 100], 3.5e9, 2.5)
    assert loss[0] == loss[1] == pytest.approx(float(free_space_db(1, 3.5e9)))
    assert np.diff(loss[1:]) == pytest.approx([25, 25])
    given_loss = log_distance_db([10, 100], 3.5e9, 4, reference_m=10, reference_loss_db=70)
    assert given_loss == pytest.approx([70, 110])


@pytest.mark.parametrize("clear", [True, False])
@pytest.mark.parametrize("carrier", [2e9, 3.5e9, 28e9])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_urban_loss_and_line_of_sight_are_sionnas(scenario, carrier, clear):
    tr38901 = pytest.importorskip(
        "sionna.phy.channel.tr38901", reason="needs sionna-no-rt, which is not installed"
    )
    torch = pytest.importorskip("torch")
    ground = np.array([10.0, 17, 35, 80, 150, 300, 600, 1200, 2500, 5000])
    antenna = tr38901.PanelArray(
        num_rows_per_panel=1, num_cols_per_panel=1, polarization="single",
        polarization_type="V", antenna_pattern="omni", carrier_frequency=carrier,
    )  # fmt: skip
    kind = {"umi": tr38901.UMiScenario, "uma": tr38901.UMaScenario}[scenario]
    world = kind(carrier, "low", antenna, antenna, "uplink", precision="double")
    places = np.stack([ground, 0 * ground, 0 * ground + 1.5], axis=-1)[None]
    base = np.array([[[0.0, 0.0, server_height_m(scenario)]]])
    world.set_topology(
        torch.tensor(places), torch.tensor(base),
        torch.zeros(1, len(ground), 3, dtype=torch.float64),
        torch.zeros(1, 1, 3, dtype=torch.float64),
        torch.zeros(1, len(ground), 3, dtype=torch.float64),
        torch.zeros(1, len(ground), dtype=torch.bool), clear,
    )  # fmt: skip
    theirs = world.basic_pathloss.flatten().numpy()
    # Sionna's breakpoint has the exact speed of light, the standard's 3.0e8 m/s.
    assert urban_db(scenario, ground, clear, carrier) == pytest.approx(theirs, abs=0.01)
    chance = world.los_probability.flatten().numpy()
    assert line_of_sight_probability(scenario, ground) == pytest.approx(chance, abs=1e-9)
