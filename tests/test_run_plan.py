"""`cutlayer plan`: the allocation alone, as a run of the same job would decide it."""

import csv
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cutlayer import simulate
from cutlayer.cli import app
from cutlayer.errors import AllocationError, JobError, WorldError
from cutlayer.job import Job, change_job, load_job, make_job
from cutlayer.planning import plan_table
from cutlayer.planning.plan import Plan, Planner, in_a_world, plan
from cutlayer.planning.plan_files import write_plan, write_sweep
from cutlayer.planning.plan_sweep import sweep
from cutlayer.planning.plan_totals import draws_of, totals_of, upload_instead
from cutlayer.train.cohort import draw_cohort
from helpers import small_job

METHODS = ("fedlora", "split-lora", "tsflora", "st-sflora", "sflam", "asfl", "asfv", "auto")


def job_of(method: str, *settings: str) -> Job:
    return load_job(None, [f"method={method}", "world.reference_loss_db=70", *settings])


def fleet_file(path: Path, joules: Sequence[float]) -> str:
    """A fleet of devices with 40 samples each, and these energy coefficients."""
    names = (
        "x_m,y_m,speed_mps,clock_hz,cores,flops_per_cycle,power_max_w,energy_coefficient,"
        "memory_bytes,data_size"
    )
    lines = [f"{100 + 50 * i},0,0,1e9,4,1,0.2,{one},8e9,40" for i, one in enumerate(joules)]
    path.write_text("\n".join([names, *lines]) + "\n")
    return str(path)


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


@pytest.mark.parametrize("method", ["st-sflora", "sflam", "auto"])
def test_how_a_solver_ended_is_said_with_what_to_try(method: str) -> None:
    told = plan(job_of(method, "devices.count=6")).sentences()
    (note,) = [line for line in told if line.startswith(f"{method}: ")]
    assert "method.allocation" in note
    assert not re.search(r"\b(loops?|objective|stalled|start)\b", note)


def test_a_plan_is_what_a_run_with_the_same_data_sizes_does(tmp_path: Path) -> None:
    # 160 images dealt out evenly to 4 devices of a fleet that says so.
    fleet = fleet_file(tmp_path / "fleet.csv", [1e-27] * 4)
    job = small_job(
        "data.train_samples=160",
        "data.partition.kind=iid",
        "training.rounds=1",
        method="sflora",
        world={"reference_loss_db": 70.0, "fleet": {"path": fleet}},
    )
    row = simulate(job, out=tmp_path / "run").rows[0]
    found = plan(job)
    assert found.decided.decisions == row.decisions
    assert found.round_s == pytest.approx(row.virtual_s, rel=1e-3)
    assert sum(found.joules.values()) == pytest.approx(sum(row.joules.values()), rel=1e-3)
    assert sum(t.up for t in found.shape.traffic.values()) == pytest.approx(row.up_bytes, rel=1e-3)


@pytest.mark.parametrize("method", ["tsflora", "auto"])
def test_a_record_has_the_semantic_efficiency_of_the_plan(method: str, tmp_path: Path) -> None:
    fleet = fleet_file(tmp_path / "fleet.csv", [1e-27] * 4)
    job = small_job(
        "data.train_samples=160",
        "data.partition.kind=iid",
        "training.rounds=1",
        method=method,
        world={"reference_loss_db": 70.0, "fleet": {"path": fleet}},
    )
    run = simulate(job, out=tmp_path / "run")
    assert run.rows[0].ste == pytest.approx(plan(job).decided.ste)
    assert run.to_pandas().ste[0] == run.rows[0].ste


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


def efficiency_of(found: Plan) -> float:
    """STE by its definition (arXiv 2605.26120), from the rows of a plan alone."""
    rows, samples = found.rows(), found.known.loads.samples_trained
    important = sum(row["importance"] * held for row, held in zip(rows, samples, strict=True))
    return important / max(8e-6 * row["sent"] / row["megabit_s"] for row in rows)


@pytest.mark.parametrize(
    "method",
    ["sflora", "tsflora", "tsflora method.tokens.keep=9", "sflam", "asfl", "asfv", "lean", "auto",
     "auto method.allocation.tokens=[11] method.allocation.quality_min=0.1"],
)  # fmt: skip
def test_every_split_method_has_a_semantic_efficiency(method: str, tmp_path: Path) -> None:
    found = plan(job_of(*method.split(), "devices.count=6"))
    assert found.decided.ste == pytest.approx(efficiency_of(found), rel=1e-5)
    assert f"efficiency {found.decided.ste:.4g} 1/s" in " ".join(found.sentences())
    fewer = [row for row in found.rows() if row["tokens"] < 49]
    assert all((0 < row["importance"] < 1) == (row in fewer) for row in found.rows())
    shown = [one.title for one in plan_table.columns_of(found.rows())]
    assert ("importance" in shown) == bool(fewer)


@pytest.mark.parametrize("solver", ["st-sflora", "exact"])
def test_the_efficiency_of_ranked_tokens_is_what_its_solvers_aim_at(solver: str) -> None:
    found = plan(job_of("st-sflora", f"method.allocation.solver={solver}", "devices.count=6"))
    assert found.decided.ste == pytest.approx(efficiency_of(found), rel=1e-2)  # headers of frames


@pytest.mark.parametrize("method", ["fedlora", "split-lora"])
def test_methods_without_a_longest_upload_of_tokens_have_no_semantic_efficiency(
    method: str,
) -> None:
    found = plan(job_of(method, "devices.count=4"))
    assert found.summary()["ste"] is None
    assert not any("semantic" in line for line in found.sentences())


def test_without_a_calibration_only_a_plan_of_all_tokens_has_a_semantic_efficiency() -> None:
    fewer = plan(job_of("tsflora", "devices.count=4", "model.weights=random"))
    assert fewer.summary()["ste"] is None
    (told,) = [line for line in fewer.sentences() if "semantic" in line]
    assert "cutlayer calibrate" in told
    whole = plan(job_of("sflora", "devices.count=4", "model.weights=random"))
    assert whole.summary()["ste"] == pytest.approx(efficiency_of(whole), rel=1e-5)


@pytest.mark.usefixtures("figures")
def test_a_plan_is_written_as_a_table_and_pictures(tmp_path: Path) -> None:
    found = plan(job_of("auto", "devices.count=5"))
    paths = write_plan(found, tmp_path / "plan")
    assert [path.name for path in paths] == ["plan.csv", "round.csv", "round.png", "shares.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths[2:])
    rows, bars = (list(csv.DictReader(path.open())) for path in paths[:2])
    assert [row["device"] for row in rows] == [str(i) for i in range(5)]
    assert {bar["device"] for bar in bars} == {str(i) for i in range(5)}
    assert max(float(bar["end_s"]) for bar in bars) == pytest.approx(found.round_s)


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


@pytest.mark.parametrize(
    "settings",
    [
        ["method=st-sflora"],
        ["method=st-sflora", "method.allocation.solver=exact"],
        ["method=sflam"],
        ["method=asfv"],
        ["method=asfl"],
        ["method=auto"],
        ["method=sflora"],
    ],
    ids=" ".join,
)
def test_a_drawn_device_in_the_way_is_named_by_its_own_number(settings: list[str]) -> None:
    scarce = ["devices.count=9", "devices.per_round=2", "world.energy.cap_j=1e-9"]
    job = change_job(job_of("sflora"), [*settings, *scarce])
    drawn = draw_cohort(job, 0)
    assert not {0, 1} & set(drawn)  # no number is a place among those drawn
    with pytest.raises(AllocationError) as error:
        plan(job)
    (named,) = re.findall(r"(?:device|vehicle) (\d+)", str(error.value))
    assert int(named) in drawn


def test_a_run_names_the_one_drawn_device_that_cannot_take_part(tmp_path: Path) -> None:
    thirsty = 3
    fleet = fleet_file(tmp_path / "fleet.csv", [1e-9 if i == thirsty else 1e-27 for i in range(9)])
    job = small_job(
        "devices.count=9",
        "devices.per_round=2",
        "data.train_samples=90",
        "world.energy.cap_j=1e6",
        "world.energy.forward=true",
        method="sflam",
        world={"reference_loss_db": 70.0, "fleet": {"path": fleet}},
    )
    assert draw_cohort(job, 0).index(thirsty) != thirsty
    with pytest.raises(AllocationError, match=rf"the energy of device {thirsty} is"):
        simulate(job, out=tmp_path / "run")


@pytest.mark.usefixtures("figures")
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
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_large_fleet_is_summed_up_and_shown_whole_on_request(tmp_path: Path) -> None:
    words = ["plan", "--set", "method=st-sflora", "--set", "devices.count=300", "--set", "world={}"]
    words += ["--set", "training.rounds=1"]
    short = CliRunner().invoke(app, [*words, "--out", str(tmp_path)])
    assert short.exit_code == 0, short.output
    assert len(short.output.splitlines()) < 30
    assert "300 devices" in short.output
    median = next(line for line in short.output.splitlines() if "median" in line)
    with (tmp_path / "plan.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300
    away = sorted(float(row["distance_m"]) for row in rows)
    assert away[148] - 1 <= float(median.split()[1]) <= away[151] + 1
    whole = CliRunner().invoke(app, [*words, "--all"])
    assert len(whole.output.splitlines()) > 300


def test_a_job_without_a_world_is_planned_in_the_default_one() -> None:
    assert in_a_world(load_job(None)).world is not None
    with pytest.raises(JobError, match="a plan needs one"):
        plan(load_job(None))


OUTAGE = "time_s,device,uplink_bps,downlink_bps"


def rates(folder: Path, *dead: tuple[int, int, float, float]) -> dict:
    """Three devices at 10 Mbit/s both ways, but for rows (second, device, up, down) of others."""
    lines = {(s, m): (1e7, 1e7) for s in (0, 10**5) for m in range(3)}
    lines |= {(s, m): (up, down) for s, m, up, down in dead}
    file = folder / "rates.csv"
    text = [f"{s},{m},{up},{down}" for (s, m), (up, down) in sorted(lines.items())]
    file.write_text("\n".join([OUTAGE, *text]))
    return {"rates_path": str(file), "deadline_s": 500}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["fedlora", "sflora", "st-sflora", "auto", "asfv", "split-lora"])
@pytest.mark.parametrize("way", ["uplink", "downlink"])
def test_a_rate_of_zero_is_an_outage_that_concerns_no_other_device(
    tmp_path: Path, method: str, way: str
) -> None:
    up, down = (0, 1e7) if way == "uplink" else (1e7, 0)
    world = rates(tmp_path, (0, 0, up, down))
    found = plan(make_job({"devices": {"count": 3}, "method": method, "world": world}))
    assert found.decided.left_out == {0: f"outage: its {way} rate is 0"}
    assert set(found.decided.decisions) == {1, 2}
    assert found.timeline.finish_s.max() < 500
    assert f"left out 0: outage: its {way} rate is 0" in found.sentences()


def test_a_plan_for_devices_that_are_all_out_is_one_sentence(tmp_path: Path) -> None:
    world = rates(tmp_path, *((0, m, 0, 0) for m in range(3)))
    with pytest.raises(
        WorldError, match=r"can be reached; device \d has an outage: its uplink and"
    ):
        plan(make_job({"devices": {"count": 3}, "world": world}))


def test_a_run_leaves_a_device_out_while_its_rate_is_zero(tmp_path: Path) -> None:
    world = rates(tmp_path, (1, 1, 0, 1e7), (60, 1, 1e7, 1e7)) | {"deadline_s": None}
    settings = ("data.train_samples=60", "training.rounds=2", "devices.count=3")
    rows = simulate(small_job(*settings, world=world), out=tmp_path / "run").rows
    assert 1 < rows[0].virtual_s < 60
    assert [row.left_out for row in rows] == [{}, {1: "outage: its uplink rate is 0"}]


def test_a_plan_promises_nothing_that_nobody_reaches(tmp_path: Path) -> None:
    job = job_of("sflora", "world.deadline_s=0.5", "devices.count=6")
    found = plan(job)
    assert "0 of 6 devices finish within 0.5 s" in found.sentences()[0]
    assert {row["late"] for row in found.rows()} == {"late"}
    assert (found.summary()["devices"], found.summary()["late"]) == (0, 6)
    with write_plan(found, tmp_path)[0].open() as file:
        assert {row["late"] for row in csv.DictReader(file)} == {"late"}
    never, some = sweep(job, setting="world.deadline_s=0.5,1e4")
    assert (never["devices"], never["late"], some["devices"], some["late"]) == (0, 6, 6, 0)


def test_a_plan_takes_the_sizes_of_the_data_that_the_job_names(tmp_path: Path) -> None:
    job = small_job("training.rounds=1", method="sflora", world={"reference_loss_db": 70.0})
    row = simulate(job, out=tmp_path / "run").rows[0]
    found = plan(load_job(tmp_path / "run" / "job.yaml"))
    assert found.shape.samples_trained == row.samples_trained
    assert found.decided.decisions == row.decisions
    assert found.round_s == pytest.approx(row.virtual_s, rel=1e-3)
    assert "of the job's data (demo)" in found.sentences()[1]
    assert "the job names no data" in plan(job_of("sflora")).sentences()[1]
    elsewhere = job_of("sflora", "data={source: folder, path: /no/such/photos}")
    assert "/no/such/photos is not on this machine" in plan(elsewhere).sentences()[1]


@pytest.mark.parametrize("method", [*METHODS, "genfv"])
def test_what_is_planned_is_what_the_clock_measures(tmp_path: Path, method: str) -> None:
    plain = {} if method in ("fedlora", "genfv") else {"uplink": {"entropy": "none"}}
    if plain and method not in ("sflam", "st-sflora", "st-sflora-full"):  # to which nothing returns
        plain |= {"downlink": {"entropy": "none"}}
    generator = {"source": "demo", "steps": 2}
    job = small_job(
        "data.train_samples=60",
        "training.rounds=1",
        method={"name": method, **plain} if method != "auto" else {"name": method},
        world={"reference_loss_db": 70.0, "server_flops": 2e9},
        generated={"generator": generator, "amount": 2, "seconds_per_image": 1e-9}
        if method == "genfv"
        else None,
    )
    row = simulate(job, out=tmp_path / "run").rows[0]
    assert row.planned_s == pytest.approx(row.virtual_s, rel=0.02 if method == "auto" else 1e-3)


def test_the_rounds_of_a_job_are_planned_one_after_another_and_summed() -> None:
    job = job_of("sflora", "training.rounds=3", "devices.count=4")
    total = totals_of(job)
    planner, seconds = Planner(job), []
    for round in range(3):
        seconds.append(planner.plan(round).round_s)
        planner.clock.now_s += seconds[-1]
    assert len(set(seconds)) == 3
    assert total.seconds == pytest.approx(sum(seconds))
    assert "the job's 3 rounds take" in total.sentence()
    longer = totals_of(job_of("sflora", "training.rounds=200", "devices.count=4"))
    assert (longer.planned, longer.rounds) == (20, 200)
    assert "as the mean of the first 20" in longer.sentence()


def test_draws_differ_in_their_channel_alone_and_are_averaged(tmp_path: Path) -> None:
    job = job_of("st-sflora", "devices.count=4")
    drawn = draws_of(Planner(job), 5)
    assert len(set(drawn["ste"])) == 5
    assert drawn["ste"][0] == plan(job).decided.ste
    still = draws_of(Planner(job_of("st-sflora", "devices.count=4", "world.fading=none")), 3)
    assert len(set(still["ste"])) == 1
    rows = sweep(job, setting="world.bandwidth_hz=1e7,1e8", draws=3)
    with write_sweep(rows, tmp_path)[0].open() as file:
        narrow, wide = csv.DictReader(file)
    assert float(narrow["ste"]) == pytest.approx(np.mean(rows[0]["ste"]))
    assert float(narrow["ste_std"]) == pytest.approx(np.std(rows[0]["ste"]))
    assert float(wide["ste"]) > float(narrow["ste"])


def test_a_plan_says_what_survives_where_it_was_calibrated() -> None:
    found = plan(job_of("auto", "devices.count=4"))
    assert found.survival is not None
    assert 0.9 <= found.survival.least <= found.survival.agreement <= 1
    assert any("of predictions survive" in line for line in found.sentences())
    assert plan(job_of("fedlora")).survival is None


def test_a_plan_says_what_uploading_the_images_would_take() -> None:
    found = plan(job_of("sflora", "devices.count=4"))
    line = upload_instead(found)
    assert line is not None
    samples = int(found.known.loads.samples_per_epoch.sum())
    assert f"{samples:,} of 28 x 28 x 1 bytes" in line


def test_values_with_commas_and_several_settings_are_swept(tmp_path: Path) -> None:
    job = job_of("asfv", "devices.count=3")
    rows = sweep(job, setting=["method.allocation.cuts=[1,2],[4]", "world.bandwidth_hz=1e7,5e7"])
    assert [row["value"] for row in rows] == ["[1,2], 1e7", "[1,2], 5e7", "[4], 1e7", "[4], 5e7"]
    assert [row["cut"] == 4 for row in rows] == [False, False, True, True]
    with write_sweep(rows, tmp_path)[0].open() as file:
        first = next(csv.DictReader(file))
    assert first["method.allocation.cuts"] == "[1,2]"
    assert first["world.bandwidth_hz"] == "1e7"
    with pytest.raises(JobError, match="is swept twice"):
        sweep(job, setting=["model.cut=1", "model.cut=2"])


def test_a_sweep_in_words_is_written_in_the_units_of_its_settings(tmp_path: Path) -> None:
    job = job_of("st-sflora", "method.allocation.solver=exact", "devices.count=4")
    axes = ["world.bandwidth_hz=500 kHz,5e6,50 MHz", "world.server_power_w=200 mW,30 dBm"]
    rows = sweep(job, setting=axes)
    with write_sweep(rows, tmp_path)[0].open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["world.bandwidth_hz"]) for line in lines[::2]] == [5e5, 5e6, 5e7]
    assert [float(line["world.server_power_w"]) for line in lines[:2]] == pytest.approx([0.2, 1])
    assert lines[0]["value"] == "500 kHz, 200 mW"
    assert float(lines[0]["ste"]) == rows[0]["ste"]


def test_a_sweep_reads_labels_and_hashes_a_checkpoint_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    from cutlayer.data import sources

    hashed, read = [], []
    digest, training_labels = hashlib.file_digest, sources.training_labels
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, name: hashed.append(file.name) or digest(file, name)
    )
    monkeypatch.setattr(
        sources, "training_labels", lambda *a: read.append(a) or training_labels(*a)
    )
    sweep(job_of("st-sflora", "data.train_samples=900"), setting="world.bandwidth_hz=1e7,2e7,5e7")
    assert len(read) == 1
    assert len(hashed) == len(set(hashed))
