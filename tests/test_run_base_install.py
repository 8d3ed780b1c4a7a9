"""A plain `pip install cutlayer` simulates: without what draws and what reads tables."""

import sys
from pathlib import Path

import pytest

from cutlayer import compare, simulate
from cutlayer.cli import main
from cutlayer.job import dump_job
from cutlayer.rounds.progress import Silent
from helpers import small_job

NOT_THERE = (
    "adjustText", "constriction", "cryptography", "grpc", "matplotlib", "prometheus_client",
    "psutil", "pyarrow",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _base_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NOT_THERE:
        monkeypatch.setitem(sys.modules, name, None)


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


def test_a_run_and_a_comparison_go_without_figures_and_say_which_extra_has_them(
    tmp_path: Path,
) -> None:
    heard = Heard()
    job = small_job("training.rounds=1", world={})
    result = simulate(job, out=tmp_path / "run", progress=heard)
    assert result.rows[0].accuracy is not None
    assert list((tmp_path / "run" / "figures").iterdir()) == []
    why = "no figures are drawn: matplotlib is not installed: pip install 'cutlayer[server]'"
    assert heard.said.count(why) == 1
    compare(job, methods=["sflora", "fedlora"], out=tmp_path / "both")
    assert "sflora" in (tmp_path / "both" / "comparison.md").read_text()


def test_what_needs_an_extra_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "rows.parquet"
    table.write_bytes(b"PAR1")
    job = tmp_path / "job.yaml"
    job.write_text(dump_job(small_job(f"data={{source: parquet, path: {table}}}")))
    monkeypatch.setattr(sys, "argv", ["cutlayer", "simulate", str(job)])
    with pytest.raises(SystemExit):
        main()
    said = " ".join(capsys.readouterr().err.split())
    assert "pyarrow is not installed: pip install 'cutlayer[server]'" in said
