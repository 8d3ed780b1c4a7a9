"""Devices move as settings and traces say, and leave the coverage when they should."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cutlayer.errors import WorldError
from cutlayer.settings.places import MobilitySettings
from cutlayer.settings.world import WorldSettings
from cutlayer.world.link_traces import read_rates
from cutlayer.world.mobility import (
    Motion,
    draw_speeds,
    make_highway,
    radial_stay_s,
    straight_stay_s,
)
from cutlayer.world.traces import read_positions

HIGHWAY = MobilitySettings(kind="highway")


def test_radial_stay_is_st_sfloras():
    stay = radial_stay_s([100, 400, 500, 600, 600], [10, 10, 10, 10, 0], 500)
    assert stay.tolist() == [40, 10, 0, 0, 0]
    assert math.isinf(radial_stay_s([100], [0], 500)[0])


@settings(max_examples=100, deadline=None)
@given(
    x=st.floats(-350, 350),
    y=st.floats(-350, 350),
    angle=st.floats(0, 2 * math.pi),
    speed=st.floats(0.1, 70),
)
def test_straight_stay_ends_on_the_edge_and_is_never_below_the_radial(x, y, angle, speed):
    vx, vy = speed * math.cos(angle), speed * math.sin(angle)
    one = (np.array([v]) for v in (x, y, vx, vy, math.hypot(vx, vy)))
    motion = Motion(*one, present=np.array([True]))
    stay = straight_stay_s(motion, 500)[0]
    assert math.hypot(x + vx * stay, y + vy * stay) == pytest.approx(500)
    assert stay >= radial_stay_s(math.hypot(x, y), speed, 500) - 1e-9


def test_who_drives_towards_the_disc_has_no_time_in_it_yet():
    one = (np.array([v]) for v in (-600.0, 0.0, 10.0, 0.0, 10.0))
    assert straight_stay_s(Motion(*one, present=np.array([True])), 500).tolist() == [0]


def test_truncated_speeds_have_the_mean_of_their_distribution_and_stay_in_range():
    narrow = MobilitySettings(
        kind="redraw", speed_mean_mps=20, speed_std_mps=10, speed_min_mps=15, speed_max_mps=50
    )
    speeds = draw_speeds(narrow, np.arange(100_000), 0, "speed")
    assert speeds.min() >= 15
    assert speeds.max() <= 50
    unit, low, high = NormalDist(), (15 - 20) / 10, (50 - 20) / 10
    mass = unit.cdf(high) - unit.cdf(low)
    mean = 20 + 10 * (unit.pdf(low) - unit.pdf(high)) / mass
    assert speeds.mean() == pytest.approx(mean, abs=0.1)
    for level in (18, 25, 40):
        below = (unit.cdf((level - 20) / 10) - unit.cdf(low)) / mass
        assert (speeds < level).mean() == pytest.approx(below, abs=0.006)


def test_vehicles_keep_lane_and_speed_and_enter_and_leave_the_disc():
    road = make_highway(HIGHWAY, np.arange(400), seed=3)
    first, later = road.at(0.0), road.at(7.0)
    ahead = np.mod(first.x_m + 7 * first.vx_mps + 1000, 2000) - 1000
    assert later.x_m == pytest.approx(ahead)
    assert set(first.y_m) == {35, 39, 43, 47, 51, 55}
    assert ((first.vx_mps > 0) == (first.y_m < 46)).all()
    inside = [np.hypot(road.at(t).x_m, road.at(t).y_m) < 500 for t in (0.0, 7.0)]
    assert (inside[0] & ~inside[1]).any()
    assert (~inside[0] & inside[1]).any()
    assert np.mean(inside) == pytest.approx(0.5, abs=0.08)  # a 1 km chord of 2 km of road


FCD = """<?xml version="1.0" encoding="UTF-8"?>
<fcd-export xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <timestep time="10.00">
    <vehicle id="b" x="0.00" y="5.00" angle="90.00" type="car" speed="20.00" pos="1" lane="e_0"/>
  </timestep>
  <timestep time="11.00">
    <vehicle id="b" x="20.00" y="5.00" angle="90.00" type="car" speed="21.00" pos="2" lane="e_0"/>
    <vehicle id="a" x="100.00" y="0.00" angle="0.00" type="car" speed="4.00" pos="1" lane="e_1"/>
    <person id="p" x="1.00" y="1.00" angle="0.00" speed="1.00" pos="1" edge="e"/>
  </timestep>
  <timestep time="12.00">
    <vehicle id="a" x="100.00" y="4.00" angle="0.00" type="car" speed="4.00" pos="5" lane="e_1"/>
  </timestep>
</fcd-export>
"""


def test_a_sumo_trace_is_replayed_between_its_steps(tmp_path):
    path = tmp_path / "fcd.xml"
    path.write_text(FCD)
    trace = read_positions(path, 2)
    middle = trace.at(10.5)
    assert (middle.x_m[0], middle.y_m[0], middle.vx_mps[0]) == (10, 5, 20)
    assert middle.present.tolist() == [True, False]  # vehicle a enters at 11 s
    end = trace.at(11.75)
    assert (end.x_m[1], end.y_m[1], end.vy_mps[1], end.speed_mps[1]) == (100, 3, 4, 4)
    assert end.present.tolist() == [False, True]  # vehicle b has left
    with pytest.raises(WorldError, match="runs from 10 to 12 s but the run asks for 13 s"):
        trace.at(13.0)
    with pytest.raises(WorldError, match=r"has 2 vehicles but devices\.count is 3"):
        read_positions(path, 3)
    assert read_positions(path, 1).at(10.0).present.tolist() == [True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<fcd-export><timestep", "is not XML"),
        (FCD.replace("<fcd", "<!DOCTYPE f [<!ENTITY a 'b'>]><fcd", 1), "document type"),
        (FCD.replace('x="20.00"', 'x="nan"'), "line 7: x is 'nan'"),
        (FCD.replace('x="20.00"', ""), "line 7: x is None"),
        (FCD.replace('time="11.00"', 'time="soon"'), "line 6: time is 'soon'"),
    ],
)
def test_a_broken_sumo_trace_is_refused_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "fcd.xml"
    path.write_text(text)
    with pytest.raises(WorldError, match=message) as caught:
        read_positions(path, 2)
    assert str(caught.value).startswith("world.mobility.path: fcd.xml")


POSITIONS = "time_s,device,x_m,y_m,speed_mps"


def test_a_position_csv_may_have_its_rows_in_any_order(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(f"{POSITIONS}\n4,0,40,0,10\n0,1,5,5,0\n0,0,0,0,10\n4,1,5,5,0\n")
    motion = read_positions(path, 2).at(1.0)
    assert motion.x_m.tolist() == [10, 5]
    assert motion.vx_mps.tolist() == [10, 0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,0,1,1,1", "has no row of device 1"),
        ("0,0,1,1,1\n0,2,1,1,1", "line 3: device is 2: number devices from 0 to 1"),
        ("0,0,1,1,1\n0,0.5,1,1,1", "line 3: device is 0.5"),
        ("0,0,1,1,1\n0,1,1,1,1\n0,0,2,2,1", "line 4: time_s is 0: this device has a row"),
        ("0,0,1,1,-3\n0,1,1,1,1", "line 2: speed_mps is -3"),
        ("0,0,inf,1,3\n0,1,1,1,1", "line 2: x_m is 'inf'"),
    ],
)
def test_a_broken_position_csv_is_refused_with_its_row(tmp_path, rows, message):
    path = tmp_path / "trace.csv"
    path.write_text(f"{POSITIONS}\n{rows}\n")
    with pytest.raises(WorldError, match=message):
        read_positions(path, 2)


def test_rates_hold_until_the_next_row_and_end_with_the_last(tmp_path):
    path = tmp_path / "rates.csv"
    path.write_text(
        "device,time_s,uplink_bps,downlink_bps\n0,0,1e6,5e6\n0,10,2e6,6e6\n1,0,3e6,7e6\n1,20,0,0\n"
    )
    trace = read_rates(path, 2)
    assert trace.at(9.9)[0].tolist() == [1e6, 3e6]
    assert trace.at(10.0)[1].tolist() == [6e6, 7e6]
    with pytest.raises(WorldError, match="rates of device 0 from 0 to 10 s but the run asks for"):
        trace.at(10.5)
    with pytest.raises(WorldError, match="asks for -1 s"):
        trace.at(-1)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_last_row_until_a_time_is_found_for_every_device(tmp_path_factory, data):
    times = data.draw(
        st.lists(
            st.lists(st.integers(0, 50), min_size=1, max_size=9, unique=True),
            min_size=1,
            max_size=5,
        )
    )
    path = tmp_path_factory.mktemp("rates") / "rates.csv"
    rows = [f"{t},{m},{t},{t}" for m, mine in enumerate(times) for t in mine]
    path.write_text("\n".join(["time_s,device,uplink_bps,downlink_bps", *rows]) + "\n")
    trace, now = read_rates(path, len(times)), data.draw(st.integers(0, 50))
    if all(min(mine) <= now <= max(mine) for mine in times):
        expected = [max(t for t in mine if t <= now) for mine in times]
        assert trace.at(now)[0].tolist() == expected
    else:
        with pytest.raises(WorldError):
            trace.at(now)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mobility": {"kind": "trace"}}, "path is missing"),
        ({"mobility": {"path": "a.csv"}}, "set kind to 'trace'"),
        ({"mobility": {"stay": "straight"}}, "no heading"),
        ({"mobility": {"kind": "redraw", "speed_mean_mps": 5}}, "outside speed_min_mps"),
        ({"mobility": {"kind": "highway", "road_m": 800}}, "lengthen the road"),
        ({"mobility": {"kind": "highway", "road_offset_m": 600}}, "bring the road nearer"),
        ({"mobility": {"kind": "redraw"}, "fleet": {"path": "a.csv"}}, "gives every device"),
    ],
)
def test_a_movement_that_cannot_be_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        WorldSettings(**values)
