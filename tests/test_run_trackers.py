"""Trackers are given what the record says: read back with their own tools."""

import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutlayer.cli import main
from cutlayer.errors import RunError
from cutlayer.job import dump_job
from cutlayer.record.row_lines import line_of
from cutlayer.record.rows import Row
from cutlayer.reports.trackers import scalars, track
from report_runs import made_job, made_rows


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    job = made_job(rounds=3)
    (folder / "job.yaml").write_text(dump_job(job))
    append(folder, made_rows(job))
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    return folder


def append(folder: Path, rows: list[Row]) -> None:
    with (folder / "rounds.jsonl").open("a") as file:
        file.writelines(line_of(row) + "\n" for row in rows)


def expected() -> list[dict[str, float]]:
    totals: dict[str, float] = {}
    return [scalars(row, totals) for row in made_rows(made_job(rounds=3))]


def test_scalars_are_the_record_s_and_sum_up() -> None:
    first, second, third = expected()
    rows = made_rows(made_job(rounds=3))
    assert first["round/up_mb"] == rows[0].up_bytes / 1e6
    assert third["total/up_mb"] == pytest.approx(sum(row.up_bytes for row in rows) / 1e6)
    assert third["total/virtual_s"] == 6.0
    assert second["accuracy"] == rows[1].accuracy
    assert second["devices/took_part"] == 4
    assert "ste" not in first  # not measured, not nought


def test_tensorboard_reads_what_was_measured(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    where = track(run, to="tensorboard", where=str(tmp_path / "events"))
    events = EventAccumulator(where.removeprefix("tensorboard --logdir "))
    events.Reload()
    for name in expected()[0]:
        found = events.Scalars(name)
        assert [event.step for event in found] == [1, 2, 3]
        wanted = [values[name] for values in expected()]
        assert [event.value for event in found] == pytest.approx(wanted, rel=1e-6)


def test_mlflow_reads_what_was_measured(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the package mlflow")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    where = track(run, to="mlflow", where=uri, project="fleet")
    client = mlflow.MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'fleet'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id in where
    assert found.data.params["training.rounds"] == "3"
    history = client.get_metric_history(found.info.run_id, "accuracy")
    assert [(one.step, one.value) for one in history] == [
        (step + 1, values["accuracy"]) for step, values in enumerate(expected())
    ]
    assert [one.path for one in client.list_artifacts(found.info.run_id)] == ["adapter", "job.yaml"]


class StandIn:
    """A tracker's package of which every function is there and notes how it was called."""

    def __init__(self, fails_at: str = "") -> None:
        self.calls: list[tuple[str, dict[str, object]]] = []
        self.fails_at = fails_at

    def __getattr__(self, name: str):
        def call(*given: object, **named: object) -> "StandIn":
            self.calls.append((name, named))
            if name == self.fails_at:
                raise KeyboardInterrupt
            return self

        return call


@pytest.mark.parametrize(
    ("to", "ending"),
    [("mlflow", ("end_run", {"status": "FAILED"})), ("wandb", ("finish", {"exit_code": 1}))],
)
@pytest.mark.parametrize("why", ["a damaged record", "the user", "the job's settings"])
def test_a_tracker_s_run_is_ended_as_failed_when_tracking_fails(
    to: str, ending: tuple[str, dict[str, object]], why: str, run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    at = {"a damaged record": "", "the user": "log_metrics" if to == "mlflow" else "log"}
    stand_in = StandIn(at.get(why, "log_params" if to == "mlflow" else "log"))
    monkeypatch.setitem(sys.modules, to, stand_in)
    if why == "a damaged record":
        with (run / "rounds.jsonl").open("a") as file:
            file.write("no round\n")
    with pytest.raises(RunError if why == "a damaged record" else KeyboardInterrupt):
        track(run, to=to)
    assert stand_in.calls[-1] == ending


def test_wandb_keeps_it_offline_where_it_is_told_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs the package wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    where = track(run, to="wandb", where=str(tmp_path))
    assert where.startswith("wandb sync ")
    (file,) = Path(where.removeprefix("wandb sync ")).glob("*.wandb")
    accuracies = []
    for data in leveldb_records(file.read_bytes()[7:]):
        record = Record.FromString(data)
        for item in record.history.item:
            if (item.key or ".".join(item.nested_key)) == "accuracy":
                accuracies.append(float(item.value_json))
    assert accuracies == [values["accuracy"] for values in expected()]


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """Of a log in LevelDB's format, which Weights & Biases writes, after its own seven bytes."""
    block, header = 2**15, struct.Struct("<IHB")
    whole, place = b"", 7
    while place + header.size <= len(log) + 7:
        if block - place % block < header.size:  # what is left of a block holds no header
            place += block - place % block
            continue
        _, length, kind = header.unpack_from(log, place - 7)
        start = place - 7 + header.size
        whole += log[start : start + length]
        place += header.size + length
        if kind in (1, 4):  # all of a record, or its last part
            yield whole
            whole = b""


def test_a_run_is_followed_to_its_last_round(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = made_job(rounds=3)
    rows = made_rows(job)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "job.yaml").write_text(dump_job(job))
    append(folder, rows[:1])
    later = threading.Timer(0.5, append, (folder, rows[1:]))
    later.start()
    track(folder, to="tensorboard", follow=True)
    later.join()
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]


def test_a_tracker_that_is_not_there_is_one_sentence(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(RunError, match=r"mlflow is not installed: pip install 'cutlayer\[mlflow\]"):
        track(run, to="mlflow")
    with pytest.raises(RunError, match="'paper' is none of tensorboard, mlflow, wandb"):
        track(run, to="paper")
    monkeypatch.setattr(sys, "argv", ["cutlayer", "track", str(run / "nowhere"), "--to", "wandb"])
    with pytest.raises(SystemExit):
        main()
    assert "is no run folder" in capsys.readouterr().err


def test_what_a_tracker_will_not_take_is_one_sentence(run: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    with pytest.raises(RunError, match="--to: tensorboard does not take the run of"):
        track(run, to="tensorboard", where=str(run / "job.yaml"))
