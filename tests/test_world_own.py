"""A world of one's own: recorded channel gains, and functions for path loss and fading."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cutlayer.errors import JobError, WorldError
from cutlayer.job import make_job
from cutlayer.planning.plan import plan
from cutlayer.reports.read_runs import read_run
from cutlayer.reports.recompute import again
from cutlayer.settings.world import WorldSettings
from cutlayer.simulation.simulate import simulate
from cutlayer.train.unread import unread
from cutlayer.world.world import World
from helpers import small_job


def two_slopes(distance_m: np.ndarray, carrier_hz: float) -> np.ndarray:
    """40 dB at 1 m, then 20 dB a decade; 40 dB a decade beyond 100 m."""
    log_d = np.log10(np.maximum(distance_m, 1.0))
    return 40 + 20 * log_d + 20 * np.maximum(log_d - 2, 0) + 20 * np.log10(carrier_hz / 1e9)


def nakagami(rng: np.random.Generator, devices: int) -> np.ndarray:
    return rng.gamma(shape=4.0, scale=0.25, size=devices)


def gains(folder: Path, *rows: str) -> str:
    path = folder / "gains.csv"
    path.write_text("\n".join(["time_s,device,uplink_db,downlink_db", *rows]) + "\n")
    return str(path)


def test_recorded_gains_take_the_place_of_the_channel(tmp_path: Path) -> None:
    path = gains(tmp_path, "0,0,-100,-90", "0,1,-80,-80", "60,0,-110,-95", "90,0,-110,-95",
                 "90,1,-80,-80")  # fmt: skip
    world = World(WorldSettings(gains_path=path), 2, 0)
    state = world.state(5, 30.0, sharing=2)
    assert state.gain_up == pytest.approx([1e-10, 1e-8])
    assert state.gain_down == pytest.approx([1e-9, 1e-8])
    assert state.path_loss_db.tolist() == [100, 80]
    noise = 10 ** ((-174 - 30) / 10) * 25e6
    assert state.uplink_bps == pytest.approx(25e6 * np.log2(1 + 0.2 * state.gain_up / noise))
    assert state.downlink_bps == pytest.approx(25e6 * np.log2(1 + 0.5 * state.gain_down / noise))
    later = world.state(5, 60.0, devices=[1, 0])
    assert later.gain_up == pytest.approx([1e-8, 1e-11])
    with pytest.raises(WorldError, match="gains of device 0 from 0 to 90 s but the run asks for"):
        world.state(0, 91.0)


def test_numbers_of_a_csv_may_have_a_unit(tmp_path: Path) -> None:
    words, numbers = (
        World(WorldSettings(gains_path=gains(tmp_path, row)), 1, 0).state(0, 0.0)
        for row in ("0,0,-100 dB,-90dB", "0,0,-100,-90")
    )
    assert (words.gain_up, words.gain_down) == (numbers.gain_up, numbers.gain_down)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("0,0,-90 dBm,-90", r"line 2: uplink_db is '-90 dBm': give a number of dB"),
        ("0,0,100,-90", r"line 2: uplink_db is 100: give received over sent power"),
        ("0,0,-100,0", r"line 2: downlink_db is 0: give received over sent"),
        ("0,0,-100,-401", r"line 2: downlink_db is -401: no link loses more than 400 dB"),
        ("0,0,nan,-90", r"uplink_db is 'nan'"),
        ("0,1,-90,-90", r"device is 1: number devices from 0 to 0"),
    ],
)
def test_gains_that_cannot_be_are_refused_with_their_line(
    tmp_path: Path, row: str, sentence: str
) -> None:
    with pytest.raises(WorldError, match=rf"^world\.gains_path: gains\.csv.*{sentence}"):
        World(WorldSettings(gains_path=gains(tmp_path, row)), 1, 0)


def test_gains_leave_no_room_for_rates_or_for_a_channel() -> None:
    with pytest.raises(ValidationError, match="rates follow from gains"):
        WorldSettings(gains_path="a.csv", rates_path="b.csv")
    job = make_job({"world": {"gains_path": "a.csv", "exponent": 3, "fading": "none"}})
    said = [one.sentence() for one in unread(job)]
    assert [line.split(":")[0] for line in said] == ["world.exponent", "world.fading"]
    assert all("world.gains_path gives the gains" in line for line in said)


def test_functions_of_ones_own_make_the_channel_of_whoever_is_asked_for() -> None:
    settings = WorldSettings.model_validate(
        {"path_loss": two_slopes, "fading": nakagami, "reciprocal": False}
    )
    assert settings.path_loss == "test_world_own:two_slopes"
    world = World(settings, 2000, 3)
    state = world.state(2, 0.0)
    assert state.path_loss_db == pytest.approx(two_slopes(state.distance_m, 3.5e9))
    assert not state.shadowing_db.any()
    fading = state.gain_up * 10 ** (state.path_loss_db / 10)
    assert fading.mean() == pytest.approx(1, abs=0.05)
    assert fading.var() == pytest.approx(1 / 4, abs=0.05)
    assert (state.gain_up != state.gain_down).all()
    few = world.state(2, 0.0, sharing=2000, devices=[7, 3])
    whole = world.state(2, 0.0, sharing=2000).take([7, 3])
    for field in fields(few):
        assert np.array_equal(getattr(few, field.name), getattr(whole, field.name))


def too_few(*_: Any) -> list[float]:
    return [1.0]


def endless(distance_m: Any, _: Any) -> Any:
    return np.full(len(distance_m), np.inf)


def below(first: Any, second: Any) -> Any:
    return np.full(second if isinstance(second, int) else len(first), -1.0)


def words(*_: Any) -> str:
    return "loud"


def fails(*_: Any) -> float:
    return 1 / 0


@pytest.mark.parametrize("setting", ["path_loss", "fading"])
@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (too_few, r"gave \[1\] numbers for 5 devices"),
        (below, "gave -1"),
        (words, "gave 'loud', which is no list of numbers"),
        (fails, r"failed at .*, line \d+ \(ZeroDivisionError: division by zero\): mend it"),
    ],
)
def test_a_function_that_gives_no_channel_is_one_sentence(
    setting: str, function: Any, sentence: str
) -> None:
    world = World(WorldSettings.model_validate({setting: function}), 5, 0)
    with pytest.raises(JobError, match=rf"^world\.{setting}: 'test_world_own:.*{sentence}"):
        world.state(0, 0.0)


def test_a_loss_without_end_is_refused() -> None:
    world = World(WorldSettings.model_validate({"path_loss": endless}), 5, 0)
    with pytest.raises(JobError, match="one finite number for each"):
        world.state(0, 0.0)


@pytest.mark.parametrize("setting", ["path_loss", "fading"])
def test_an_unknown_name_is_refused_with_those_that_there_are(setting: str) -> None:
    with pytest.raises(
        ValidationError, match=r"is called .rayleight.: take one of .*module:FUNCTION"
    ):
        WorldSettings.model_validate({setting: "rayleight"})


def test_plan_and_run_go_by_it_and_a_report_does_not_run_it(tmp_path: Path) -> None:
    few = ("data.train_samples=60", "data.test_samples=20", "training.rounds=1")
    own = small_job(*few, world={"path_loss": "test_world_own:two_slopes"})
    usual = small_job(*few, world={})
    assert plan(own).decided.planned_s != plan(usual).decided.planned_s
    result = simulate(own, out=tmp_path / "run")
    assert (result.rows[0].virtual_s or 0) > 0
    assert (tmp_path / "run" / "code.json").is_file()
    seen = again(read_run(tmp_path / "run", lambda line: None), 0, 1)
    assert "which is not run to look at a run" in seen.missing["fleet"]
    assert "two_slopes" in seen.missing["gantt"]
