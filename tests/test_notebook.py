"""What a notebook shows as a cell's last line, and the data frames it goes on with."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cutlayer import compare, evaluate, make_job, plan, simulate
from cutlayer.errors import RunError
from cutlayer.planning.calibration.record import calibration_for
from cutlayer.simulation.comparison import Comparison
from helpers import small_job

pd = pytest.importorskip("pandas", reason="needs pandas: pip install 'cutlayer[notebook]'")

WORLD = {"reference_loss_db": 75.0}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    job = small_job("devices.per_round=3", world=WORLD)
    methods = ["sflora", "few = tsflora tokens.keep=12"]
    return compare(job, methods=methods, seeds=[0, 1], out=tmp_path_factory.mktemp("c"))


def test_a_run_shows_itself_in_a_few_lines(compared: Comparison) -> None:
    run = compared.results[0]
    assert len(repr(run)) < 400
    assert "tensor" not in repr(run)
    shown = run._repr_html_()
    assert f"accuracy {run.accuracy_said}" in shown
    assert shown.count("<tr>") == 1 + len(run.rows)


def test_frames_of_a_run_hold_what_its_record_says(compared: Comparison) -> None:
    run = compared.results[0]
    rounds, devices = run.to_pandas(), run.to_pandas("devices")
    assert rounds["up_bytes"].sum() == run.up_bytes
    assert rounds["accuracy"].iloc[-1] == run.accuracy
    assert list(rounds["round"]) == [1, 2]
    took_part = devices[devices["became"] != "left out"]
    assert took_part["adapter_up_bytes"].sum() + took_part["activations_bytes"].sum() == (
        run.up_bytes
    )
    assert set(took_part.groupby("round")["device"].count()) == {3}
    with pytest.raises(RunError, match="'spans' is no table of a run"):
        run.to_pandas("spans")


def test_stages_of_a_run_are_the_bars_of_its_gantt_chart(compared: Comparison) -> None:
    run = compared.results[0]
    stages = run.to_pandas("stages")
    assert list(stages) == ["round", "device", "stage", "step", "start_s", "end_s"]
    ends = stages.groupby("round")["end_s"].max()
    assert list(ends) == pytest.approx([row.virtual_s for row in run.rows])
    for row in run.rows:
        assert set(stages[stages["round"] == row.round + 1]["device"]) == set(row.cohort)


def test_a_run_without_a_clock_says_where_stages_come_from(tmp_path: Path) -> None:
    run = simulate(small_job("training.rounds=1"), out=tmp_path)
    with pytest.raises(
        RunError, match=r"'stages' are those of a simulation in a world.*world=\{\}"
    ):
        run.to_pandas("stages")


def test_a_comparison_shows_its_finding_and_has_a_row_for_each_run(compared: Comparison) -> None:
    assert compared.finding.replace("<", "&lt;") in compared._repr_html_()
    assert len(repr(compared)) < 400
    frame = compared.to_pandas()
    assert list(frame["label"]) == ["sflora", "sflora", "few", "few"]
    assert list(frame["seed"]) == [0, 1, 0, 1]
    assert list(frame["accuracy"]) == [run.accuracy for run in compared.results]


def test_a_plan_shows_itself_and_gives_its_spans() -> None:
    found = plan(small_job(world=WORLD))
    assert len(repr(found)) < 400
    assert found.sentences()[0] in found._repr_html_()
    stages = found.to_pandas("stages")
    assert stages["end_s"].max() == pytest.approx(found.round_s)
    assert set(stages["device"]) == set(found.decided.decisions)
    assert len(found.to_pandas()) == len(found.decided.decisions)
    with pytest.raises(RunError, match="'rounds' is no table of a plan"):
        found.to_pandas("rounds")


def test_a_calibration_shows_itself_as_its_table() -> None:
    found = calibration_for(make_job({"method": "auto"}))
    assert found is not None
    assert len(repr(found)) < 400
    shown = found._repr_html_()
    assert "Predictions that stay as they are" in shown
    assert f"<p>{found.samples} samples of the calibration data" in shown


def test_figures_on_test_data_show_themselves_as_sentences(compared: Comparison) -> None:
    found = evaluate(compared.results[0].folder)
    assert "array" not in repr(found)
    assert len(repr(found)) < 400
    assert f"accuracy {100 * found.accuracy:.1f} % of" in found._repr_html_()


def test_progress_is_printed_in_a_notebook_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(small_job("training.rounds=1"), out=tmp_path / "quiet")
    assert capsys.readouterr().out == ""
    shell: Any = SimpleNamespace(kernel=object())
    fake = SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(__import__("sys").modules, "IPython", fake)
    simulate(small_job("training.rounds=1"), out=tmp_path / "told")
    assert "round 1/1" in capsys.readouterr().out


def test_without_pandas_one_sentence_names_the_extra(
    compared: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(RunError, match=r"pandas is not installed: pip install 'cutlayer\[noteb"):
        compared.to_pandas()
