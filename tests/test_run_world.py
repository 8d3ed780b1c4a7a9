"""Runs in a world: virtual seconds, joules, and who came too late."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import cutlayer
from cutlayer import simulate
from cutlayer.errors import JobError, WorldError
from cutlayer.job import Job, change_job
from cutlayer.rounds.progress import OnConsole, Silent
from cutlayer.train.result import RoundResult
from helpers import equal, small_job

# Ten Mbit/s and no fading: seconds that can be worked out by hand.
PLAIN = {
    "bandwidth_hz": 1e6,
    "fading": "none",
    "max_bps_per_hz": 1.0,
    "server_power_w": 1e6,
    "fleet": {"min_distance_m": 5, "max_distance_m": 6},
}


def world_job(*settings: str, method: str = "sflora", **world: object) -> Job:
    return small_job(*settings, method=method, world={**PLAIN, **world})


def test_a_world_changes_what_is_known_and_not_what_is_trained(tmp_path: Path) -> None:
    without = simulate(small_job(), out=tmp_path / "without")
    within = simulate(world_job(), out=tmp_path / "within")
    assert equal(without.adapter, within.adapter)
    assert without.rows[0].virtual_s is None
    assert within.rows[0].virtual_s > 0
    assert all(joules > 0 for joules in within.rows[0].joules.values())


def test_seconds_follow_from_bytes_and_rate(tmp_path: Path) -> None:
    # At 1 bit/s/Hz four devices share 1 MHz: each sends 250 kbit/s, one after another step.
    free = "data.partition.kind=iid"
    row = simulate(world_job(free, "training.rounds=1"), out=tmp_path / "run").rows[0]
    slowest = max(8 * (t[0] + t[3]) / 250e3 for t in row.traffic.values())
    downlink = max(8 * (t[1]) / 250e3 + 8 * t[2] / 1e6 for t in row.traffic.values())
    computing = 16 * 2e8 / (1e9 * 4)  # 16 samples of well under 0.2 GFLOP at the slowest phone's
    assert slowest + downlink < row.virtual_s < slowest + downlink + computing


def test_fewer_tokens_and_bits_save_seconds_and_joules(tmp_path: Path) -> None:
    full = simulate(world_job(), out=tmp_path / "full").rows[0]
    few = simulate(
        world_job("method.tokens.keep=12", "method.uplink.bits=4", method="tsflora"),
        out=tmp_path / "few",
    ).rows[0]
    assert few.virtual_s < full.virtual_s / 4
    assert sum(few.joules.values()) < sum(full.joules.values())


def test_devices_after_the_deadline_are_not_trained_on(tmp_path: Path) -> None:
    every = simulate(world_job("training.rounds=1"), out=tmp_path / "every")
    finish = every.rows[0].virtual_s
    some = simulate(world_job("training.rounds=1", deadline_s=finish * 0.9), out=tmp_path / "some")
    none = simulate(world_job("training.rounds=1", deadline_s=1e-3), out=tmp_path / "none")
    assert every.rows[0].late == []
    assert 0 < len(some.rows[0].late) < 4
    assert some.rows[0].virtual_s == pytest.approx(finish * 0.9)
    assert not equal(every.adapter, some.adapter)
    assert len(none.rows[0].late) == 4
    head = none.adapter["classifier.bias"]
    assert head.abs().max() == 0  # as it was drawn
    assert [result.rows[0].in_vain for result in (every, some, none)] == [False, False, True]
    said = StringIO()
    for result in (some, none):
        OnConsole(Console(file=said, width=200)).round_done(result.rows[0])
    assert said.getvalue().count("so the round changed nothing") == 1


def test_devices_that_take_turns_take_the_sum_of_their_times(tmp_path: Path) -> None:
    # A turn has the whole band, so the bytes take as long; only broadcasts and computing add up.
    turns = simulate(world_job("training.rounds=1", method="split-lora"), out=tmp_path / "turns")
    row = turns.rows[0]
    sending = sum(8 * (t[0] + t[1] + t[3]) / 1e6 for t in row.traffic.values())
    assert row.virtual_s > sending


class StopAfter(Silent):
    """Ctrl-C in the middle of a round."""

    def step_done(self, result: RoundResult, done: int, steps: int) -> None:
        if result.round == 1:
            raise KeyboardInterrupt


def test_the_virtual_clock_goes_on_where_it_stopped(tmp_path: Path) -> None:
    job = change_job(world_job(fading="rayleigh"), ["training.rounds=3"])
    whole = simulate(job, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        simulate(job, out=tmp_path / "cut", progress=StopAfter())
    resumed = cutlayer.resume(tmp_path / "cut")
    assert [row.virtual_s for row in resumed.rows] == [row.virtual_s for row in whole.rows]
    assert [row.joules for row in resumed.rows] == [row.joules for row in whole.rows]


def test_a_round_without_a_device_in_coverage_is_one_sentence(tmp_path: Path) -> None:
    job = world_job(coverage_m=50, fleet={"min_distance_m": 60, "max_distance_m": 70})
    with pytest.raises(WorldError, match="widen the coverage"):
        simulate(job, out=tmp_path / "run")


def test_an_impossible_world_is_refused() -> None:
    with pytest.raises(JobError, match=r"world\.bandwidth_hz: -1"):
        small_job(world={"bandwidth_hz": -1})
    with pytest.raises(JobError, match=r"world\.bandwith_hz: there is no such field; did you mean"):
        small_job(world={"bandwith_hz": 1})


def test_every_frame_takes_the_latency_of_the_link(tmp_path: Path) -> None:
    def lasting(latency_s: float, method: str) -> float:
        job = small_job(
            "training.rounds=1", "data.partition={kind: iid}",
            method=method, world={"latency_s": latency_s, "fading": "none"},
        )  # fmt: skip
        (row,) = simulate(job, out=tmp_path / f"{method}-{latency_s}").rows
        assert row.planned_s == pytest.approx(row.virtual_s, rel=1e-3)
        return float(row.virtual_s or 0.0)

    # 16 images are two batches, each there and back, between the adapter down and up.
    assert lasting(1.5, "sflora") - lasting(0.0, "sflora") == pytest.approx(1.5 * (2 * 2 + 2))
    assert lasting(1.5, "fedlora") - lasting(0.0, "fedlora") == pytest.approx(1.5 * 2)
