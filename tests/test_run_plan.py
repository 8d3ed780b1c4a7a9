"""`cutlayer plan`: the allocation alone, as a run of the same job would decide it."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cutlayer import simulate
from cutlayer.cli import app
from cutlayer.errors import AllocationError, JobError, WorldError
from cutlayer.job import Job, change_job, load_job, make_job
from cutlayer.planning.plan import in_a_world, plan, sweep, write_plan
from helpers import small_job

METHODS = ("fedlora", "split-lora", "tsflora", "st-sflora", "sflam", "asfl", "asfv", "auto")


def job_of(method: str, *settings: str) -> Job:
    return load_job(None, [f"method={method}", "world.reference_loss_db=70", *settings])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_planned(method: str) -> None:
    found = plan(job_of(method, "devices.count=12"))
    rows = found.rows()
    assert len(rows) == 12
    assert 0 < found.round_s < float("inf")
    if method != "split-lora":  # whose devices have the whole band, one by one
        assert sum(row["bandwidth_mhz"] for row in rows) <= 50 * (1 + 1e-9)
    assert all(row["finish_s"] <= found.round_s * (1 + 1e-9) for row in rows)
    assert all(row["joules"] > 0 for row in rows)


def test_a_plan_is_what_a_run_with_the_same_data_sizes_does(tmp_path: Path) -> None:
    # 160 images dealt out evenly to 4 devices of a fleet that says so.
    fleet = tmp_path / "fleet.csv"
    names = "x_m,y_m,speed_mps,clock_hz,cores,flops_per_cycle,power_max_w,energy_coefficient"
    lines = [f"{100 + 50 * i},0,0,1e9,4,1,0.2,1e-27,8e9,40" for i in range(4)]
    fleet.write_text("\n".join([f"{names},memory_bytes,data_size", *lines]) + "\n")
    job = small_job(
        "data.train_samples=160",
        "data.partition.kind=iid",
        "training.rounds=1",
        method="sflora",
        world={"reference_loss_db": 70.0, "fleet": {"path": str(fleet)}},
    )
    row = simulate(job, out=tmp_path / "run").rows[0]
    found = plan(job)
    assert found.decided.decisions == row.decisions
    assert found.round_s == pytest.approx(row.virtual_s, rel=1e-3)
    assert sum(found.joules.values()) == pytest.approx(sum(row.joules.values()), rel=1e-3)
    assert sum(t.up for t in found.shape.traffic.values()) == pytest.approx(row.up_bytes, rel=1e-3)


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys; from cutlayer.cli import app; "
        "app(['plan', '--set', 'method=st-sflora'], standalone_mode=False); "
        "print([m for m in ('torch', 'transformers', 'matplotlib', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_sweep_has_a_line_for_each_value_and_says_where_there_is_no_plan() -> None:
    job = job_of("asfv", "devices.count=8")
    rows = sweep(job, setting="world.bandwidth_hz=1e6,10e6,100e6")
    seconds = [row["round_s"] for row in rows]
    assert seconds == sorted(seconds, reverse=True)
    none, some = sweep(job, setting="world.deadline_s=1e-3,1e5")
    assert "no" in none["why"] or "can finish" in none["why"]
    assert some["devices"] == 8


def test_fewer_tokens_come_with_a_flatter_budget() -> None:
    few = plan(job_of("st-sflora", "method.allocation.tokens_min=4"))
    many = plan(job_of("st-sflora", "method.allocation.tokens_min=30"))
    assert few.summary()["tokens"] < many.summary()["tokens"]
    assert few.round_s < many.round_s


def test_a_plan_is_written_as_a_table_and_pictures(tmp_path: Path) -> None:
    found = plan(job_of("auto", "devices.count=5"))
    paths = write_plan(found, tmp_path / "plan")
    assert [path.name for path in paths] == ["plan.csv", "round.png", "shares.png"]
    assert all(path.stat().st_size > 0 for path in paths)
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["device"] for row in rows] == [str(i) for i in range(5)]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["method=centralized"], "has no devices to plan for"),
        (["world.energy.cap_j=1e-9", "method=st-sflora"], "energy_max_j of device"),
        (["world.deadline_s=1e-6", "method=asfv"], "can finish"),
        (["world.coverage_m=1"], "widen the coverage"),
        (["method=st-sflora", "model.image_size=56"], "run cutlayer calibrate"),
    ],
)
def test_a_job_that_cannot_be_planned_is_one_sentence(settings: list[str], sentence: str) -> None:
    job = change_job(job_of("sflora"), settings)
    with pytest.raises((AllocationError, JobError, WorldError), match=sentence) as error:
        plan(job)
    assert "\n" not in str(error.value)


def test_the_command_prints_and_writes_what_it_is_asked_for(tmp_path: Path) -> None:
    three = ["plan", "--set", "devices.count=3", "--set", "method=asfv"]
    run = CliRunner().invoke(app, three)
    assert run.exit_code == 0
    assert "3 of 3 devices take part" in run.stdout
    sweep = [*three, "--sweep", "world.bandwidth_hz=1e6,1e8", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, sweep).exit_code == 0
    with (tmp_path / "out" / "sweep.csv").open() as file:
        slow, fast = csv.DictReader(file)
    assert float(slow["round_s"]) > float(fast["round_s"])
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 0


def test_a_job_without_a_world_is_planned_in_the_default_one() -> None:
    assert in_a_world(load_job(None)).world is not None
    with pytest.raises(JobError, match="a plan needs one"):
        plan(load_job(None))


@pytest.mark.filterwarnings("error")
def test_a_link_that_is_dead_downwards_keeps_no_other_device_waiting(tmp_path: Path) -> None:
    rates = tmp_path / "rates.csv"
    lines = [f"{s},{m},1e7,{1e7 if m else 0}" for s in (0, 10**5) for m in range(3)]
    rates.write_text("\n".join(["time_s,device,uplink_bps,downlink_bps", *lines]))
    world = {"rates_path": str(rates), "deadline_s": 500}
    found = plan(make_job({"devices": {"count": 3}, "method": "fedlora", "world": world}))
    dead = [device == 0 for device in found.decided.decisions]
    assert np.isinf(found.known.broadcast_s(2)).tolist() == dead
    assert found.timeline.late.tolist() == dead
    assert found.timeline.finish_s[~np.array(dead)].max() < 500
