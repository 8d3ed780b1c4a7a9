"""Going on: from an adapter, with more rounds, or no further than accuracy rises."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cutlayer
from cutlayer import simulate
from cutlayer.errors import JobError, ModelError
from cutlayer.job import change_job
from cutlayer.model.export import load_adapter
from cutlayer.record.early_stop import out_of_patience
from cutlayer.record.row_lines import read_rows
from cutlayer.settings.training import Training
from cutlayer.train.parts import first_adapter, load_parts
from helpers import equal, small_job

ROUNDS = ("data.train_samples=60", "data.test_samples=20", "data.partition.min_samples=4")


def few(*more: str, **sections: object):
    return small_job(*ROUNDS, *more, **sections)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> cutlayer.Result:
    """A run of one round."""
    return simulate(few("training.rounds=1"), out=tmp_path_factory.mktemp("runs") / "one")


# ---- from an adapter ----


def test_a_run_begins_from_the_adapter_that_its_job_names(finished: cutlayer.Result) -> None:
    job = change_job(finished.job, [f"model.adapter={finished.adapter_folder}", "seed=0"])
    parts = load_parts(job)
    start = first_adapter(job, parts.model, parts.train.classes)
    assert equal(start, finished.adapter)
    assert not equal(start, first_adapter(finished.job, parts.model))


def test_training_goes_on_from_the_adapter_in_a_comparison_too(
    finished: cutlayer.Result, tmp_path: Path
) -> None:
    settings = [f"model.adapter={finished.adapter_folder}", "training.lr=1e-9"]
    job = change_job(finished.job, settings)
    found = cutlayer.compare(job, methods=["sflora", "fedlora"], out=tmp_path / "compared")
    for result in found.results:
        far = max((result.adapter[k] - finished.adapter[k]).abs().max() for k in result.adapter)
        assert far < 1e-5
        assert result.accuracy == pytest.approx(finished.accuracy, abs=0.051)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.lora.rank=4", r"model\.lora\.rank: 4 but .* was trained with 8"),
        ("model.lora.targets=[q_proj]", "has an unknown tensor.*target_modules"),
        ("model.lora.side=server", r"must come from the same model, model\.lora\.targets and side"),
        ("model.adapter=nowhere", r"model\.adapter: there is no nowhere/adapter_model"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_before_a_folder_is_made(
    finished: cutlayer.Result, tmp_path: Path, setting: str, message: str
) -> None:
    job = change_job(finished.job, [f"model.adapter={finished.adapter_folder}", setting])
    with pytest.raises(ModelError, match=message):
        simulate(job, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_frozen_devices_refuse_an_adapter_that_trained_their_blocks(
    finished: cutlayer.Result,
) -> None:
    job = change_job(
        finished.job, [f"model.adapter={finished.adapter_folder}", "method.device=frozen"]
    )
    parts = load_parts(job)
    with pytest.raises(ModelError, match="run their blocks without adapters"):
        first_adapter(job, parts.model)


# ---- with more rounds ----


def test_a_finished_run_given_more_rounds_equals_one_that_had_them(
    finished: cutlayer.Result, tmp_path: Path
) -> None:
    longer = change_job(finished.job, ["training.rounds=2"])
    at_once = simulate(longer, out=tmp_path / "at-once")
    simulate(finished.job, out=tmp_path / "later")
    command = [sys.executable, "-m", "cutlayer", "simulate", "--resume", tmp_path / "later"]
    said = subprocess.run(
        [*command, "--set", "training.rounds=2"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    model = load_parts(longer).model
    found = load_adapter(tmp_path / "later" / "adapter", model)
    assert equal(found, load_adapter(tmp_path / "at-once" / "adapter", model))
    assert len(read_rows(tmp_path / "later")) == len(at_once.rows) == 2
    assert cutlayer.load_job(tmp_path / "later" / "job.yaml") == longer
    with pytest.raises(JobError, match=r"training\.rounds: 1 but .* has finished 2 rounds"):
        cutlayer.resume(tmp_path / "later", rounds=1)
    refused = subprocess.run(
        [*command, "--set", "training.lr=1"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "--set: training.lr cannot change in a run that goes on" in " ".join(
        refused.stderr.split()
    )


def test_more_rounds_are_refused_where_a_schedule_went_by_them(
    finished: cutlayer.Result, tmp_path: Path
) -> None:
    simulate(change_job(finished.job, ["training.schedule=cosine"]), out=tmp_path / "run")
    with pytest.raises(JobError, match=r"training\.schedule cosine went by the job's 1 rounds"):
        cutlayer.resume(tmp_path / "run", rounds=2)


# ---- no further than accuracy rises ----


def test_a_run_ends_when_accuracy_has_not_risen_for_so_many_rounds(tmp_path: Path) -> None:
    # A learning rate that moves nothing: round 1 is the best for ever.
    job = few("training.rounds=9", "training.lr=1e-12", "training.patience=2")
    found = simulate(job, out=tmp_path / "run")
    assert [row.round for row in found.rows] == [0, 1, 2]
    assert found.rows[-1].confusion
    again = cutlayer.resume(tmp_path / "run", rounds=12)
    assert len(again.rows) == 3
    assert equal(again.adapter, found.adapter)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 3))
def test_patience_is_counted_from_the_best_evaluation_that_was_due(
    values: list[int], patience: int, every: int
) -> None:
    training = Training(patience=patience, evaluate_every=every)
    accuracy = {done: value / 4 for done, value in enumerate(values, 1)}
    due = {done: value for done, value in accuracy.items() if done % every == 0}
    expected = False
    if due:
        first = min(done for done, value in due.items() if value == max(due.values()))
        expected = max(due) - first >= patience
    assert out_of_patience(training, accuracy) == expected
    assert not out_of_patience(Training(evaluate_every=every), accuracy)


# ---- what is measured ----


def test_a_device_is_tested_on_samples_that_nobody_trains_on(tmp_path: Path) -> None:
    job = few("training.rounds=1", "data.partition.held_out=0.3", "data.partition.min_samples=8")
    parts = load_parts(job)
    trained = {int(i) for share in parts.shares for i in share}
    tested = {int(i) for share in parts.held_out for i in share}
    assert not trained & tested
    assert trained | tested == set(range(60))
    row = simulate(job, out=tmp_path / "run").rows[-1]
    assert row.held_out_samples == [len(share) for share in parts.held_out]
    for device, share in enumerate(parts.held_out):
        hits = row.held_out_accuracy[device]
        assert hits is None if not len(share) else abs(hits * len(share) % 1) in (0.0, 1.0)
    own = simulate(change_job(job, ["method=local-lora"]), out=tmp_path / "own").rows[-1]
    assert len(own.held_out_accuracy) == 4
    pooled = simulate(change_job(job, ["method=centralized"]), out=tmp_path / "pooled").rows[-1]
    assert sum(pooled.samples_trained.values()) == len(trained)


def test_class_by_class_figures_agree_with_the_accuracy(finished: cutlayer.Result) -> None:
    row = read_rows(finished.folder)[-1]
    assert row == finished.rows[-1]
    assert row.test_samples == finished.tests == 20
    there = {one for pair in row.confusion for one in pair[:2]}
    f1, right = [], 0
    for one in there:
        hits = sum(n for true, said, n in row.confusion if true == said == one)
        held = sum(n for true, _, n in row.confusion if true == one)
        said = sum(n for _, said, n in row.confusion if said == one)
        precision, recall = hits / said if said else 0.0, hits / held if held else 0.0
        f1.append(2 * precision * recall / (precision + recall) if hits else 0.0)
        right += hits
        assert row.class_accuracy[one] == (pytest.approx(recall) if held else None)
    assert row.accuracy == pytest.approx(right / 20)
    assert row.macro_f1 == pytest.approx(sum(f1) / len(f1))
