"""One round's world: drawn from seed, round and time alone, and made of its documented parts."""

from dataclasses import fields

import numpy as np
import pytest
from pydantic import ValidationError

from cutlayer.errors import WorldError
from cutlayer.settings.world import WorldSettings
from cutlayer.world import draws
from cutlayer.world.fleet import FIELDS
from cutlayer.world.pathloss import line_of_sight_probability, log_distance_db
from cutlayer.world.world import World, WorldState


def equal(first: WorldState, second: WorldState) -> bool:
    names = [field.name for field in fields(WorldState)]
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)


SETTINGS = [
    {},
    {"path_loss": "umi", "fading": "rician", "reciprocal": False, "shadowing_rounds": 2},
    {"path_loss": "uma", "mobility": {"kind": "highway", "stay": "straight"}},
    {"mobility": {"kind": "redraw"}, "max_stay_s": 20, "fading": "none"},
]


@pytest.mark.parametrize("values", SETTINGS)
def test_a_state_does_not_depend_on_what_was_asked_before(values):
    settings = WorldSettings(**values)
    one, other = World(settings, 30, 5), World(settings, 30, 5)
    forwards = [one.state(round, 10.0 * round) for round in range(4)]
    backwards = [other.state(round, 10.0 * round) for round in (3, 2, 1, 0)]
    assert all(map(equal, forwards, reversed(backwards)))
    assert not equal(forwards[0], World(settings, 30, 6).state(0, 0.0))


@pytest.mark.parametrize("values", SETTINGS)
def test_a_device_has_the_same_world_whatever_the_size_of_the_fleet(values):
    settings = WorldSettings(**values)
    few, many = (World(settings, count, 5).state(2, 30.0, sharing=10) for count in (8, 50))
    assert equal(few, many.take(np.arange(8)))


@pytest.mark.parametrize("values", SETTINGS)
def test_some_devices_have_the_world_that_they_have_among_all(values, monkeypatch):
    settings, some = WorldSettings(**values), [41, 3, 6, 7, 28, 13]
    every = World(settings, 50, 5)
    whole, fleet = every.state(2, 30.0, sharing=10), every.fleet
    monkeypatch.setattr(draws, "CHUNK", 7)
    few = World(settings, 50, 5)
    assert equal(few.state(2, 30.0, sharing=10, devices=some), whole.take(some))
    for name in FIELDS:
        assert (getattr(few.fleet_of(some), name) == getattr(fleet.take(some), name)).all()
    assert few.state(2, 30.0, devices=[]).x_m.shape == (0,)


def test_the_defaults_are_st_sfloras():
    settings = WorldSettings()
    assert settings.bandwidth_hz == 50e6
    assert settings.noise_dbm_per_hz == -174
    assert settings.exponent == 2.5
    assert (settings.snr_gap_db, settings.noise_figure_db, settings.max_bps_per_hz) == (0, 0, None)
    assert (settings.fleet.min_distance_m, settings.fleet.max_distance_m) == (5, 500)
    assert World(settings, 5, 0).fleet.power_max_w.tolist() == [0.2] * 5


def test_the_gain_is_path_loss_and_fading_and_the_rate_is_shannons():
    world = World(WorldSettings(noise_figure_db=5, server_gain_dbi=8), 20, 1)
    state = world.state(3, 0.0, sharing=10)
    loss = log_distance_db(state.distance_m, 3.5e9, 2.5)
    assert state.path_loss_db == pytest.approx(loss)
    fading = state.gain_up * 10 ** ((loss - 8) / 10)
    later = world.state(4, 0.0, sharing=10)
    assert not np.allclose(fading, later.gain_up * 10 ** ((loss - 8) / 10))
    noise = 10 ** ((-174 + 5 - 30) / 10) * 5e6
    assert state.uplink_bps == pytest.approx(5e6 * np.log2(1 + 0.2 * state.gain_up / noise))
    assert state.downlink_bps == pytest.approx(5e6 * np.log2(1 + 0.1 * state.gain_down / noise))
    assert np.array_equal(state.gain_up, state.gain_down)


def test_both_antennas_add_to_the_gain():
    settings = WorldSettings(server_gain_dbi=8, device_gain_dbi=-3, fading="none")
    state = World(settings, 20, 1).state(0, 0.0)
    assert 10 * np.log10(state.gain_up) == pytest.approx(5 - state.path_loss_db)


def test_directions_fade_apart_unless_the_channel_is_reciprocal():
    state = World(WorldSettings(reciprocal=False), 20, 1).state(0, 0.0)
    assert (state.gain_up != state.gain_down).all()


def test_shadowing_belongs_to_a_block_of_rounds():
    world = World(WorldSettings(shadowing_db=8, shadowing_rounds=3, fading="none"), 4000, 1)
    draws = [world.state(round, 0.0).shadowing_db for round in (0, 2, 3)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.isclose(draws[0], draws[2]).any()
    assert draws[0].std() == pytest.approx(8, rel=0.05)
    assert World(WorldSettings(), 10, 1).state(0, 0.0).shadowing_db.tolist() == [0] * 10


def test_line_of_sight_and_its_shadowing_follow_the_standard():
    world = World(WorldSettings(path_loss="umi"), 40_000, 1)
    state = world.state(0, 0.0)
    near = (state.distance_m > 60) & (state.distance_m < 80)
    chance = line_of_sight_probability("umi", state.distance_m[near]).mean()
    assert state.line_of_sight[near].mean() == pytest.approx(chance, abs=0.04)
    assert state.shadowing_db[state.line_of_sight].std() == pytest.approx(4, rel=0.05)
    assert state.shadowing_db[~state.line_of_sight].std() == pytest.approx(7.82, rel=0.05)
    quiet = WorldSettings(path_loss="umi", shadowing_db=0, line_of_sight="never")
    still = World(quiet, 50, 1).state(0, 0.0)
    assert not still.line_of_sight.any()
    assert not still.shadowing_db.any()


def test_stay_is_bounded_and_zero_outside_coverage():
    settings = WorldSettings(max_stay_s=12, mobility={"kind": "highway", "stay": "straight"})
    world = World(settings, 300, 2)
    state = world.state(0, 5.0)
    inside = state.distance_m <= 500
    assert np.array_equal(state.in_coverage, inside)
    assert 0 < inside.sum() < 300
    assert not state.stay_s[~inside].any()
    assert (state.stay_s[inside] > 0).all()
    assert state.stay_s.max() == 12


def test_the_band_is_shared_by_those_in_coverage_unless_told():
    world = World(WorldSettings(coverage_m=250), 40, 3)
    state = world.state(0, 0.0)
    covered = int(state.in_coverage.sum())
    assert 0 < covered < 40
    assert np.array_equal(state.uplink_bps, world.state(0, 0.0, sharing=covered).uplink_bps)


def test_traced_rates_replace_the_computed(tmp_path):
    path = tmp_path / "rates.csv"
    path.write_text("time_s,device,uplink_bps,downlink_bps\n0,0,5e6,1e7\n60,0,5e6,1e7\n")
    world = World(WorldSettings(rates_path=str(path)), 1, 0)
    assert world.state(0, 30.0).uplink_bps.tolist() == [5e6]
    with pytest.raises(WorldError, match=r"^world\.rates_path: rates\.csv .* asks for 61 s"):
        world.state(1, 61.0)


def test_a_traced_vehicle_is_seen_from_the_server_and_out_of_coverage_before_it_enters(tmp_path):
    path = tmp_path / "trace.csv"
    rows = "0,0,1000,1000,10\n100,0,1100,1000,10\n50,1,1000,1000,0\n100,1,1000,1000,0"
    path.write_text(f"time_s,device,x_m,y_m,speed_mps\n{rows}\n")
    mobility = {
        "kind": "trace", "path": str(path), "start_s": 10, "server_x_m": 1000, "server_y_m": 970,
    }  # fmt: skip
    state = World(WorldSettings(mobility=mobility), 2, 0).state(0, 30.0)
    assert state.distance_m == pytest.approx([50, 30])
    assert state.in_coverage.tolist() == [True, False]
    assert state.stay_s.tolist() == [45, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bandwidth_hz": -5}, "greater than 0"),
        ({"noise_figure_db": float("nan")}, "finite number"),
        ({"path_loss": "umi", "carrier_hz": 1e8}, "carrier_hz is 1e\\+08"),
        ({"path_loss": "uma", "device_height_m": 20}, "device_height_m is 20"),
        ({"path_loss": "umi", "server_height_m": 1}, "server_height_m is 1"),
        ({"energy": {"cap_j": 0}}, "greater than 0"),
        ({"bandwith_hz": 1e6}, "Extra inputs"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        WorldSettings(**values)


def test_a_hundred_thousand_devices_have_finite_states():
    world = World(WorldSettings(path_loss="umi", mobility={"kind": "redraw"}), 100_000, 0)
    state = world.state(0, 0.0)
    for name in ("gain_up", "uplink_bps", "downlink_bps", "stay_s"):
        values = getattr(state, name)
        assert np.isfinite(values).all()
        assert (values >= 0).all()
