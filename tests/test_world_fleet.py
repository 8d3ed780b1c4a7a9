"""Fleets are what presets promise, or what a CSV says, and bad rows are named."""

import math
import re
from typing import get_args

import numpy as np
import pytest
from pydantic import ValidationError

from cutlayer.errors import WorldError
from cutlayer.settings.places import FleetSettings, Preset
from cutlayer.world.fleet import BOARDS, FIELDS, Fleet, make_fleet, read_fleet

GOOD = {
    "x_m": "-30", "y_m": "40.5", "speed_mps": "0", "clock_hz": "1.2e9", "cores": "4",
    "flops_per_cycle": "8", "power_max_w": "0.2", "energy_coefficient": "1e-27",
    "memory_bytes": "4e9", "data_size": "500",
}  # fmt: skip


def write_csv(path, rows, header=None):
    names = list(header or GOOD)
    lines = [",".join(names), *(",".join(row.get(name, "") for name in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_phones_are_those_of_st_sflora():
    fleet = make_fleet(FleetSettings(), 3000, seed=1)
    distance = np.hypot(fleet.x_m, fleet.y_m)
    assert distance.min() >= 5
    assert distance.max() <= 500
    assert distance.mean() == pytest.approx(252.5, abs=8)  # uniform in distance, not in area
    assert set(fleet.cores) == {4, 5, 6}
    assert fleet.clock_hz.min() >= 1e9
    assert fleet.clock_hz.max() <= 1.5e9
    assert set(fleet.flops_per_cycle) == {1}
    assert set(fleet.power_max_w) == {0.2}
    assert fleet.flops == pytest.approx(fleet.clock_hz * fleet.cores)


def test_placement_by_area_is_denser_far_out():
    fleet = make_fleet(FleetSettings(placement="area"), 3000, seed=1)
    inside = np.hypot(fleet.x_m, fleet.y_m) < 250
    assert inside.mean() == pytest.approx(0.25, abs=0.03)


def test_a_seed_gives_one_fleet_whose_devices_do_not_depend_on_how_many_there_are():
    few, many = (make_fleet(FleetSettings(), count, seed=4) for count in (10, 40))
    other = make_fleet(FleetSettings(), 10, seed=5)
    for name in FIELDS:
        assert np.array_equal(getattr(few, name), getattr(many.take(np.arange(10)), name))
    assert not np.array_equal(few.x_m, other.x_m)


def test_every_preset_can_be_named_and_several_are_dealt_in_turn():
    assert set(get_args(Preset)) == {"phones", *BOARDS}
    for name in get_args(Preset):
        assert make_fleet(FleetSettings(preset=name), 3, seed=0).devices == 3
    mixed = make_fleet(FleetSettings(preset=("phones", "jetson-nano")), 4, seed=0)
    assert mixed.flops_per_cycle.tolist() == [1, 2, 1, 2]
    assert mixed.cores[1] == mixed.cores[3] == 128


def test_a_board_at_full_clock_draws_the_power_it_was_measured_with():
    for name, board in BOARDS.items():
        fleet = make_fleet(FleetSettings(preset=name), 2, seed=0)
        assert fleet.energy_coefficient * fleet.clock_hz**3 == pytest.approx(board.load_w)


def test_a_csv_is_a_fleet_whatever_the_order_of_its_columns(tmp_path):
    header = [*reversed(GOOD), "note"]
    second = {**GOOD, "cores": "8", "note": "new"}
    fleet = read_fleet(write_csv(tmp_path / "fleet.csv", [GOOD, second], header))
    assert fleet.devices == 2
    assert fleet.cores.tolist() == [4, 8]
    assert fleet.y_m.tolist() == [40.5, 40.5]


def test_a_csv_of_a_spreadsheet_may_start_with_a_byte_order_mark(tmp_path):
    path = write_csv(tmp_path / "fleet.csv", [GOOD])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_fleet(path).x_m.tolist() == [-30]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([GOOD, {**GOOD, "clock_hz": "nan"}], None, "line 3: clock_hz is 'nan'"),
        ([{**GOOD, "cores": "-4"}], None, "line 2: cores is -4: give a number above 0"),
        ([{**GOOD, "speed_mps": "-1"}], None, "speed_mps is -1: give a number of 0 or more"),
        ([{**GOOD, "memory_bytes": "4 GHz"}], None, "line 2: memory_bytes is '4 GHz'"),
        ([{**GOOD, "data_size": ""}], None, "line 2: data_size is ''"),
        ([GOOD], list(GOOD)[:-1], "has no column data_size"),
        ([], None, "has no rows"),
    ],
)
def test_a_bad_csv_is_refused_in_one_sentence(tmp_path, rows, header, message):
    path = write_csv(tmp_path / "fleet.csv", rows, header)
    with pytest.raises(WorldError, match=re.escape(message)) as caught:
        read_fleet(path)
    assert str(caught.value).startswith("world.fleet.path: fleet.csv")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_has_other_devices_is_refused(tmp_path):
    with pytest.raises(WorldError, match="there is no file"):
        read_fleet(tmp_path / "none.csv")
    path = str(write_csv(tmp_path / "fleet.csv", [GOOD]))
    with pytest.raises(WorldError, match=r"has 1 rows but devices\.count is 3"):
        make_fleet(FleetSettings(path=path), 3, seed=0)


def test_a_fleet_made_by_hand_is_checked_too():
    fleet = make_fleet(FleetSettings(), 3, seed=0)
    values = {name: getattr(fleet, name) for name in FIELDS}
    with pytest.raises(WorldError, match="clock_hz of device 1 is nan"):
        Fleet(**{**values, "clock_hz": np.array([1e9, math.nan, 1e9])})
    with pytest.raises(WorldError, match="cores has shape"):
        Fleet(**{**values, "cores": np.ones(2)})
    with pytest.raises(WorldError, match="data_size of device 0 is 0"):
        fleet.with_data([0, 1, 1])


def test_an_empty_ring_is_refused():
    with pytest.raises(ValidationError, match="make the first the smaller"):
        FleetSettings(min_distance_m=500)
