"""Vehicles by SUMO: the bundled trace, stay times, and what is said without SUMO."""

import importlib.resources
import sys
from pathlib import Path

import numpy as np
import pytest

from cutlayer.errors import WorldError
from cutlayer.settings.places import MobilitySettings
from cutlayer.settings.world import WorldSettings
from cutlayer.world.stay import compare_stays
from cutlayer.world.sumo import export
from cutlayer.world.traces import read_positions
from cutlayer.world.world import World


def test_the_bundled_trace_has_vehicles_that_come_and_go() -> None:
    file = importlib.resources.files("cutlayer.assets") / "highway-trace.csv"
    assert len(file.read_bytes()) < 200_000
    world = World(
        WorldSettings(mobility=MobilitySettings(kind="trace", path="demo", stay="straight")), 20, 0
    )
    covered = np.stack([world.state(0, t).in_coverage for t in np.arange(0.0, 600.0, 5.0)])
    assert covered.any(axis=0).all()  # every vehicle passes the road-side unit
    assert not covered.all(axis=0).any()  # and none stays there
    assert covered.sum(axis=1).min() >= 1
    state = world.state(0, 60.0)
    assert state.distance_m.min() > 30
    assert 10 < np.median(state.speed_mps) < 40


def test_on_a_straight_road_at_one_speed_the_straight_model_is_what_happens(tmp_path: Path) -> None:
    # From x = -600 past the server to 600 at 30 m/s, 40 m off: out again after 1000 m or so.
    path = tmp_path / "trace.csv"
    path.write_text("time_s,device,x_m,y_m,speed_mps\n0,0,-600,40,30\n40,0,600,40,30\n")
    stays = compare_stays(read_positions(path, 1), 500.0)
    assert np.allclose(stays.seen_s, stays.straight_s, atol=0.01)
    assert stays.seen_s.max() == pytest.approx(2 * np.sqrt(500**2 - 40**2) / 30, abs=1.0)
    assert (stays.radial_s <= stays.seen_s + 0.01).all()  # the least that it can be
    leaving = stays.seen_s < 500 / 30 - 2
    assert np.allclose(stays.radial_s[leaving], stays.seen_s[leaving], atol=0.5)


def test_the_radial_model_is_a_lower_bound_on_the_bundled_trace() -> None:
    stays = compare_stays(read_positions("demo", 20), 500.0)
    assert len(stays.seen_s) > 1000
    assert (stays.radial_s <= stays.seen_s + 1).mean() > 0.99
    assert np.median(np.abs(stays.straight_s - stays.seen_s)) < 0.5
    coming = stays.seen_s > 20
    assert np.median(stays.radial_s[coming]) < 0.6 * np.median(stays.seen_s[coming])


def test_a_trace_that_ends_in_coverage_has_no_stay_time(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("time_s,device,x_m,y_m,speed_mps\n0,0,-400,40,30\n20,0,200,40,30\n")
    assert len(compare_stays(read_positions(path, 1), 500.0).seen_s) == 0


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ('<fcd-export><timestep time="0"><vehicle id="a" x="1" y="2" sp', "is unfinished"),
        (
            '<fcd-export><timestep time="0"><vehicle id="a" x="1" y="2" speed="3"/>',
            "is unfinished, it ends in line 1",
        ),
        ("", "is not XML"),
    ],
)
def test_sumo_output_cut_short_is_one_sentence(tmp_path: Path, cut: str, message: str) -> None:
    path = tmp_path / "fcd.xml"
    path.write_text(cut)
    with pytest.raises(WorldError, match=message):
        read_positions(path, 1)


def test_a_csv_trace_cut_short_names_the_line(tmp_path: Path) -> None:
    whole = (importlib.resources.files("cutlayer.assets") / "highway-trace.csv").read_text()
    path = tmp_path / "trace.csv"
    path.write_text(whole[: len(whole) // 2].rsplit(",", 2)[0])
    with pytest.raises(WorldError, match=r"world\.mobility\.path: trace\.csv, line \d+ breaks off"):
        read_positions(path, 20)


def test_without_sumo_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libsumo", None)
    with pytest.raises(WorldError, match=r"pip install cutlayer\[sumo\]"):
        export(tmp_path / "trace.csv", seconds=5)
    assert not (tmp_path / "trace.csv").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scenario": "city"}, "--scenario: 'city' is none of highway"),
        ({"density": "huge"}, "--density: 'huge' is none of low, medium, high"),
        ({"vehicles": 1000}, "take 1 to 58, or a higher density"),
        ({"every_s": 0.1}, "--every: 0.1 s between rows"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(WorldError, match=message):
        export(tmp_path / "trace.csv", **changes)


def test_sumo_writes_the_same_trace_for_the_same_seed(tmp_path: Path) -> None:
    pytest.importorskip("libsumo")
    paths = [tmp_path / f"{name}.csv" for name in ("one", "two", "other")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        export(path, seconds=20, every_s=2, vehicles=5, seed=seed)
    one, two, other = (path.read_text() for path in paths)
    assert one == two != other
    trace = read_positions(paths[0], 5)
    moved = np.hypot(
        *(trace.at(20.0).x_m - trace.at(0.0).x_m, trace.at(20.0).y_m - trace.at(0.0).y_m)
    )
    assert (moved > 20).all()
