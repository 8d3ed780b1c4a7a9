"""The precision of a device's blocks: calibrated, chosen by auto, computed, timed and recorded."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("grpc")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import tiny_models
from cutlayer import calibrate, plan, simulate
from cutlayer.allocate.decision import Decision, Setting, serves
from cutlayer.errors import AllocationError, JobError, RefusedError, RunError
from cutlayer.inference.trained import load_trained
from cutlayer.job import Job, change_job, make_job
from cutlayer.model.bank import Segment
from cutlayer.model.export import save_adapter
from cutlayer.model.weights import load_model
from cutlayer.network.device.device_requests import begin
from cutlayer.network.transport.messages import RoundBegin
from cutlayer.planning.calibration.record import (
    Calibration,
    cache_file,
    calibration_for,
    write_calibration,
)
from cutlayer.planning.plan_files import write_plan
from cutlayer.programs import packages
from cutlayer.record.row_lines import line_of, read_rows, row_of
from cutlayer.record.tabular import by_device
from cutlayer.train.device_blocks import run_in
from cutlayer.train.exchange import ACTIVATIONS
from cutlayer.train.opening import Opening
from cutlayer.train.parts import load_parts, make_device
from cutlayer.train.pool import Pool
from cutlayer.train.sample_cache import setting_of
from cutlayer.train.stopwatch import Stopwatch

TOKENS = 8


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Three devices with slow processors, whose joules of computing count."""
    model = tiny_models.write(tmp_path_factory.mktemp("model") / "vit", "vit")
    return make_job(
        {
            "model": {"path": str(model), "cut": 2},
            "data": {"train_samples": 48, "test_samples": 10, "partition": {"min_samples": 8}},
            "devices": {"count": 3},
            "training": {"rounds": 1, "batch_size": 8},
            "world": {"fleet": {"int8_speed": 4}, "energy": {"forward": True}},
            "method": {
                "name": "auto",
                "device": "frozen",
                "allocation": {
                    "precisions": ["int8", "float32"],
                    "cuts": [2],
                    "tokens": [TOKENS],
                    "bits": [8],
                    "quality_min": 0.1,
                },
            },
        }
    )


@pytest.fixture(scope="module")
def measured(job: Job) -> dict[str, Calibration]:
    first = calibrate(job, samples=20, cuts=[2], tokens=[TOKENS], bits=[8])
    other = calibration_for(job, precision="int8")
    assert other is not None
    return {"float32": first, "int8": other}


def only_float32(job: Job) -> Job:
    return change_job(job, ["method.allocation.precisions=[float32]"])


def quality_of(record: Calibration, quality: float) -> Calibration:
    return replace(record, agreement=np.full_like(record.agreement, quality))


def test_a_calibration_measures_each_precision_that_the_job_allows(
    job: Job, measured: dict[str, Calibration]
) -> None:
    plain, other = measured["float32"], measured["int8"]
    assert (plain.cuts, plain.tokens, plain.bits) == (other.cuts, other.tokens, other.bits)
    assert plain.divergence[0, -1, -1] == 0  # nothing is changed at all
    assert 0 < other.divergence[0, -1, -1] < 0.1
    assert other.samples == plain.samples == 20
    found = calibration_for(only_float32(job))
    assert found is not None  # it is the same record, which a job of float32 alone reads and writes
    assert found.subject == plain.subject
    assert "precision" not in cache_file(plain.subject).read_text()
    assert cache_file(plain.subject) != cache_file(other.subject)


def test_auto_chooses_int8_where_that_is_quicker_and_the_record_says_so(
    job: Job, measured: dict[str, Calibration], tmp_path: Path
) -> None:
    found, plain = plan(job), plan(only_float32(job))
    assert {one.precision for one in found.decided.decisions.values()} == {"int8"}
    assert found.round_s < plain.round_s
    assert sum(found.joules.values()) < sum(plain.joules.values())
    assert [row["precision"] for row in found.rows()] == ["int8"] * 3
    assert any("compute in int8 (3)" in line for line in found.sentences())
    assert found.survival is not None
    assert found.survival.agreement == pytest.approx(measured["int8"].agreement[0, 0, 0])
    run = simulate(job, out=tmp_path / "run")
    (row,) = read_rows(tmp_path / "run")
    assert {one.precision for one in row.decisions.values()} == {"int8"}
    assert row.virtual_s == pytest.approx(found.round_s, rel=0.2)
    assert [one["precision"] for one in by_device([row])] == ["int8"] * 3
    assert row.accuracy_through_cut is not None
    whole = simulate(only_float32(job), out=tmp_path / "whole")
    assert run.rows[0].loss != whole.rows[0].loss
    assert run.rows[0].loss == pytest.approx(whole.rows[0].loss, rel=0.1)
    again = simulate(job, out=tmp_path / "again")
    assert again.rows[0].loss == run.rows[0].loss


def test_auto_stays_with_float32_where_int8_costs_too_much_quality(
    job: Job, measured: dict[str, Calibration], tmp_path: Path
) -> None:
    good = change_job(job, ["method.allocation.quality_min=0.9"])
    try:
        for name, quality in (("float32", 0.95), ("int8", 0.85)):
            record = quality_of(measured[name], quality)
            write_calibration(record, cache_file(record.subject))
        run = simulate(good, out=tmp_path / "run")
    finally:
        for record in measured.values():
            write_calibration(record, cache_file(record.subject))
    assert {one.precision for one in run.rows[0].decisions.values()} == {"float32"}


@pytest.mark.usefixtures("measured")
def test_seconds_and_joules_of_computing_are_divided_by_the_stated_speed(job: Job) -> None:
    slow = change_job(job, ["world.energy.transmit=false"])
    seconds, joules = [], []
    for speed in (2, 8):
        found = plan(change_job(slow, [f"world.fleet.int8_speed={speed}"]))
        spans = [one for one in found.timeline.spans(0) if one.stage == "forward"]
        seconds.append(sum(one.end_s - one.start_s for one in spans))
        joules.append(found.joules[0])
    assert seconds[0] == pytest.approx(4 * seconds[1])
    assert joules[0] == pytest.approx(4 * joules[1])


def test_a_precision_that_is_no_quicker_is_not_chosen(
    job: Job, measured: dict[str, Calibration]
) -> None:
    slow = plan(change_job(job, ["world.fleet.int8_speed=0.5"]))
    assert slow.decided.decisions == plan(only_float32(job)).decided.decisions


def test_a_job_of_float32_alone_plans_writes_and_keeps_what_it_did(
    job: Job, measured: dict[str, Calibration], tmp_path: Path
) -> None:
    found = plan(only_float32(job))
    write_plan(found, tmp_path)
    (header, *_) = csv.reader((tmp_path / "plan.csv").open())
    assert "precision" not in header
    assert "precision" not in found.rows()[0]
    assert "computes in" not in [column.header for column in found.table().columns]
    assert setting_of(Decision(2, 5, 8)) == 776097137349653166
    write_plan(plan(job), tmp_path / "both")
    (header, first, *_) = csv.reader((tmp_path / "both" / "plan.csv").open())
    assert dict(zip(header, first, strict=True))["precision"] == "int8"


def test_lines_of_a_record_name_a_precision_only_where_it_is_not_float32(
    job: Job, measured: dict[str, Calibration], tmp_path: Path
) -> None:
    row = simulate(only_float32(job), out=tmp_path / "run").rows[0]
    assert "float32" not in line_of(row)
    assert "precision" not in by_device([row])[0]
    other = {d: replace(one, precision="float16") for d, one in row.decisions.items()}
    assert row_of(line_of(replace(row, decisions=other))).decisions == other
    with pytest.raises(ValueError, match="int4"):
        row_of(line_of(replace(row, decisions=other)).replace("float16", "int4"))


def test_samples_in_another_precision_are_not_what_the_server_holds() -> None:
    method = make_job({}).method
    held = Setting(1, 5, 8)
    assert serves(held, Setting(1, 5, 8), method)
    assert not serves(held, Setting(1, 5, 8, "int8"), method)
    assert setting_of(Decision(1, 5, 8)) != setting_of(Decision(1, 5, 8, precision="int8"))


def test_blocks_of_a_program_compute_what_torch_does(tmp_path: Path) -> None:
    """Texts of several devices, the last of which has nothing to compute."""
    folder = tiny_models.write(tmp_path / "bert", "bert")
    job = change_job(
        make_job({"model": {"path": str(folder), "max_tokens": 12}, "method": "auto"}),
        ["method.allocation.precisions=[float32,float16]", "method.tokens.score=received"],
    )
    model = load_model(job.model, 3, job.seed)
    inputs = tiny_models.inputs_of(model, 5)
    found = run_in("float16", packages.blocks_for(job, model), 2, True, inputs, [2, 3, 0])
    with torch.no_grad():
        due = model.device_forward(inputs, 2, [Segment({}, 5)], "received")
    assert found.mask is not None
    assert due.mask is not None
    assert torch.equal(found.mask, due.mask)
    assert torch.allclose(found.hidden[due.mask], due.hidden[due.mask], atol=0.02, rtol=0.02)
    assert found.scores is not None
    assert due.scores is not None
    assert torch.allclose(found.scores, due.scores, atol=1e-3)


def test_a_device_with_torch_refuses_another_precision(job: Job) -> None:
    device = make_device(job, load_parts(job), 0)
    asked = RoundBegin(0, 2, device.steps, precision="int8")
    with pytest.raises(RefusedError, match="asks for int8, but a device with torch"):
        begin(device, asked, Opening())
    device.begin(0, Decision(2, precision="int8"), None)
    with pytest.raises(RunError, match="this process has no programs that compute in int8"):
        Pool([device]).send(ACTIVATIONS, 0, Stopwatch())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["world.fleet.int8_speed=null"], "int8_speed: null, but .* join --light --probe measures"),
        (["method.allocation.precisions=[int8]"], "lacks float32"),
        (["method.allocation.precisions=[float32,int4]"], "int4"),
        (["method.device=trained"], "sends gradients to devices that train.*take float32 alone"),
        (["method.allocation.leakage_max=0.1"], "cutlayer audit attacks"),
        (["privacy.activation_noise=1"], "need torch to draw this noise"),
    ],
)
def test_jobs_whose_devices_cannot_choose_are_refused(
    job: Job, changes: list[str], sentence: str
) -> None:
    with pytest.raises(JobError, match=sentence):
        plan(change_job(job, changes))


def test_a_solver_that_chooses_no_precision_refuses_the_setting() -> None:
    job = make_job({"method": "st-sflora", "world": {"fleet": {"int8_speed": 2}}})
    with pytest.raises(JobError, match=r"precisions: .* only method.allocation.solver auto"):
        plan(change_job(job, ["method.allocation.precisions=[float32,int8]"]))


def test_a_speed_that_no_device_needs_is_reported_and_not_refused() -> None:
    job = make_job({"method": "st-sflora", "world": {"fleet": {"int8_speed": 2}}})
    assert any("compute in no int8" in line for line in plan(job).sentences())


def test_what_was_calibrated_apart_is_refused_until_it_is_measured_together(
    job: Job, measured: dict[str, Calibration]
) -> None:
    other = measured["int8"]
    few = replace(
        other,
        bits=other.bits[1:],
        **{
            name: getattr(other, name)[:, :, 1:]
            for name in ("agreement", "divergence", "accuracy", "bytes_per_sample")
        },
    )
    try:
        write_calibration(few, cache_file(other.subject))
        with pytest.raises(AllocationError, match="calibrated at different cuts, tokens or bits"):
            plan(job)
    finally:
        write_calibration(other, cache_file(other.subject))


def test_what_is_missing_is_measured_on_the_samples_of_the_rest(
    job: Job, measured: dict[str, Calibration], tmp_path: Path
) -> None:
    other = measured["int8"]
    try:
        write_calibration(replace(other, samples=12), cache_file(other.subject))
        with pytest.raises(AllocationError, match="calibrated on different samples"):
            plan(job)
        cache_file(other.subject).unlink()
        simulate(change_job(job, ["seed=1"]), out=tmp_path / "run")
        found = calibration_for(job, precision="int8")
        assert found is not None
        assert (found.samples, found.seed) == (other.samples, 0)
        assert np.array_equal(found.agreement, other.agreement)
        cache_file(other.subject).unlink()
        trained = replace(measured["float32"], adapter="ab")
        write_calibration(trained, cache_file(trained.subject))
        with pytest.raises(JobError, match="int8 not: run cutlayer calibrate --adapter"):
            simulate(job, out=tmp_path / "other")
    finally:
        for record in measured.values():
            write_calibration(record, cache_file(record.subject))


def test_an_adapter_of_blocks_that_run_as_programs_is_not_measured(
    job: Job, tmp_path: Path
) -> None:
    model = load_model(job.model, 10, job.seed)
    save_adapter(tiny_models.random_adapter(model, 3), model, tmp_path / "adapter")
    grid = {"samples": 8, "tokens": [TOKENS], "bits": [8], "adapter": tmp_path / "adapter"}
    with pytest.raises(JobError, match=r"has trained .*, but devices that compute in int8 run"):
        calibrate(job, cuts=[2], **grid)


def test_at_cut_0_where_no_block_is_computed_devices_stay_with_float32(
    job: Job, measured: dict[str, Calibration]
) -> None:
    start = change_job(job, ["method.allocation.cuts=[0]", "method.allocation.tokens=[]"])
    try:
        for name, quality in (("float32", 0.5), ("int8", 1.0)):
            tables: dict[str, Any] = {
                kind: np.full_like(getattr(measured[name], kind), quality)
                for kind in ("agreement", "divergence", "accuracy", "bytes_per_sample")
            }
            for table in list(tables.values()):
                table[:, :-1] = np.nan  # without a block nothing ranks tokens
            tables |= {f"importance{end}": {} for end in ("", "_low", "_high")}
            tables |= {kind: {0: 1.0} for kind in ("mean_square", "range_16")}
            record = replace(measured[name], cuts=(0,), **tables)
            write_calibration(record, cache_file(record.subject))
        found = plan(start).decided.decisions
    finally:
        for record in measured.values():
            write_calibration(record, cache_file(record.subject))
    assert {(one.cut, one.precision) for one in found.values()} == {(0, "float32")}


def test_a_run_that_kept_to_float32_is_tested_without_onnxruntime(
    job: Job, measured: dict[str, Calibration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(change_job(job, ["world.fleet.int8_speed=0.5"]), out=tmp_path / "run")
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert load_trained(tmp_path / "run").logits_of(cut=True)


def test_without_onnxruntime_a_run_says_what_to_install(
    job: Job, measured: dict[str, Calibration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert plan(job).decided.decisions  # a plan computes nothing
    for run in (lambda: simulate(job, out=tmp_path / "run"), lambda: calibrate(job)):
        with pytest.raises(JobError, match="int8 are computed by onnxruntime, and onnx is not"):
            run()
