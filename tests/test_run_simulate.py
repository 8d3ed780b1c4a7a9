"""Runs: true bytes, resuming, and what stops a run."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import cutlayer
from cutlayer import simulate
from cutlayer.errors import CutlayerError, RunError
from cutlayer.job import dump_job
from cutlayer.record.checkpoint import load_state
from cutlayer.record.row_lines import read_rows
from cutlayer.record.rows import Row
from cutlayer.rounds.progress import Silent
from cutlayer.rounds.result import Result
from cutlayer.train.result import RoundResult
from helpers import equal, small_job
from report_runs import made_job, made_rows


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def say(self, line: str) -> None:
        self._said.append(line)


class StopAfter(Silent):
    """Ctrl-C in the middle of a round."""

    def __init__(self, round: int) -> None:
        self.round = round

    def step_done(self, result: RoundResult, done: int, steps: int) -> None:
        if result.round == self.round and done == 2:
            raise KeyboardInterrupt


def without_times(rows: list[Row]) -> list[dict]:
    return [{**vars(row), "seconds": None, "cpu_seconds": None} for row in rows]


@pytest.mark.parametrize("method", ["tsflora", "local-lora"])
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path, method: str) -> None:
    job = small_job("training.rounds=3", "devices.per_round=3", method=method)
    whole = simulate(job, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        simulate(job, out=tmp_path / "cut", progress=StopAfter(1))
    assert not (tmp_path / "cut" / "adapter").exists()
    resumed = cutlayer.resume(tmp_path / "cut")
    assert equal(whole.adapter, resumed.adapter)
    assert without_times(whole.rows) == without_times(resumed.rows)
    assert without_times(read_rows(tmp_path / "cut")) == without_times(whole.rows)
    if method == "local-lora":
        ends = [load_state(tmp_path / name / "state.safetensors") for name in ("whole", "cut")]
        assert all(equal(ends[0].kept[i], ends[1].kept[i]) for i in ends[0].kept)


def test_a_killed_run_resumes_to_the_same_adapter(tmp_path: Path) -> None:
    job = small_job("training.rounds=4", method="tsflora")
    whole = simulate(job, out=tmp_path / "whole")
    (tmp_path / "job.yaml").write_text(dump_job(job))
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "cutlayer", "simulate", tmp_path / "job.yaml", "--out", folder]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (folder / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 1 <= load_state(folder / "state.safetensors").rounds < 4
    assert equal(cutlayer.resume(folder).adapter, whole.adapter)


def test_bytes_are_those_of_the_frames(tmp_path: Path) -> None:
    # 15 samples a device: batches of 8 and 7.
    job = small_job("data.train_samples=60", "data.partition.kind=iid", "training.rounds=1")
    row = simulate(job, out=tmp_path / "run").rows[0]
    payload = 15 * 50 * 128 * 4  # samples, tokens with CLS, width, bytes of a float32
    for activations, gradients, down, up, *_ in row.traffic.values():
        assert payload < activations < payload + 2 * 120
        assert payload < gradients < payload + 2 * 120
        assert down == up > 0


def test_a_run_says_and_records_its_data_and_the_names_of_its_classes(tmp_path: Path) -> None:
    class Lines(Silent):
        said: list[str] = []  # noqa: RUF012

        def say(self, line: str) -> None:
            self.said.append(line)

    simulate(small_job("training.rounds=1"), out=tmp_path / "run", progress=Lines())
    found = json.loads((tmp_path / "run" / "data.json").read_text())
    assert found["line"] in Lines.said
    assert (found["train_samples"], found["test_samples"]) == (64, 20)
    labels = json.loads((tmp_path / "run" / "adapter" / "labels.json").read_text())
    assert list(labels["id2label"].values()) == found["classes"]
    assert found["classes"][1] == "Trouser"


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    simulate(small_job("training.rounds=1"), out=tmp_path / "run")
    with pytest.raises(RunError, match="already holds a run"):
        simulate(small_job("training.rounds=1"), out=tmp_path / "run")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    done = simulate(small_job("training.rounds=1"), out=tmp_path / "run")
    again = cutlayer.resume(tmp_path / "run")
    assert equal(done.adapter, again.adapter)
    assert len(again.rows) == 1


def test_a_loss_that_is_not_a_number_stops_the_run_and_says_where(tmp_path: Path) -> None:
    job = small_job("training.optimizer=sgd", "training.lr=1e30")
    with pytest.raises(RunError, match=r"round 0, step \d|NaN, infinity"):
        simulate(job, out=tmp_path / "run")


def test_a_run_goes_on_from_the_last_state_that_is_whole(tmp_path: Path) -> None:
    job = small_job("training.rounds=3", "training.keep_states=2")
    whole = simulate(job, out=tmp_path / "run")
    states = sorted((tmp_path / "run" / "states").iterdir())
    assert [path.stem for path in states] == ["round-000002", "round-000003"]
    for path in (tmp_path / "run" / "state.safetensors", states[1]):
        path.write_bytes(path.read_bytes()[:-40])
    said: list[str] = []
    again = cutlayer.resume(tmp_path / "run", progress=Heard(said))
    assert equal(again.adapter, whole.adapter)
    assert [row.round for row in again.rows] == [0, 1, 2]
    assert said.pop(0).startswith("data: ")
    assert [sentence.count("is damaged") for sentence in said] == [1, 1]


@pytest.mark.parametrize(
    ("accuracies", "loss", "said"),
    [
        ([0.5, 0.6], 1.0, ""),
        ([0.5, 0.49], 9.0, ""),  # within what chance does to 100 samples
        ([0.5, 0.3], 1.0, "accuracy 50.0 % after round 1, 30.0 % after round 2"),
        ([0.1, 0.1], 500.0, "it guesses"),
        ([0.1, 0.1], 2.3, ""),  # knows nothing yet, and does not pretend to
    ],
)
def test_a_run_that_ends_worse_than_it_began_says_so(
    tmp_path: Path, accuracies: list[float], loss: float, said: str
) -> None:
    job = made_job(rounds=2)
    rows = [
        replace(row, accuracy=accuracy, test_loss=loss)
        for row, accuracy in zip(made_rows(job), accuracies, strict=True)
    ]
    worse = Result(tmp_path, job, rows, {}, classes=10, tests=100).worse
    assert (said in worse) if said else worse == ""


def test_a_run_whose_states_are_all_damaged_is_refused(tmp_path: Path) -> None:
    simulate(small_job("training.rounds=1"), out=tmp_path / "run")
    for state in (tmp_path / "run").glob("**/*.safetensors"):
        state.write_bytes(state.read_bytes()[:-40])
    with pytest.raises(RunError, match="is damaged"):
        cutlayer.resume(tmp_path / "run")


def test_a_damaged_row_costs_itself(tmp_path: Path) -> None:
    simulate(small_job("training.rounds=3"), out=tmp_path / "run")
    record = tmp_path / "run" / "rounds.jsonl"
    first, _, last = record.read_text().splitlines()
    record.write_text(f"{first}\nnot a row\n{last}\n")
    said: list[str] = []
    again = cutlayer.resume(tmp_path / "run", progress=Heard(said))
    assert [row.round for row in again.rows] == [0, 2]
    assert said[0].startswith("data: ")
    assert "line 2 of" in said[1]
    assert "2 of the 3 rounds" in said[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.cut=9"], "beyond the .* blocks"),
        (["method.tokens.keep=80"], "more than the 49 tokens"),
        (["method.tokens.keep=10", "model.cut=0"], "no block on the device"),
        (["model.path=/nowhere"], "/nowhere"),
        (["devices.count=500"], "500"),
    ],
)
def test_a_job_the_model_cannot_run_is_refused(
    tmp_path: Path, settings: list[str], message: str
) -> None:
    with pytest.raises(CutlayerError, match=message):
        simulate(small_job(*settings), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
