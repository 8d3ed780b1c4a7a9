"""Runs of a comparison in processes of their own are those of one process."""

from pathlib import Path

import pytest

from cutlayer import compare
from cutlayer.errors import JobError, RunError
from cutlayer.simulation.workers import Run, run_in_processes
from helpers import equal, small_job

SMALL = ("training.rounds=1", "devices.count=2", "data.train_samples=40", "data.test_samples=20")


def test_runs_in_processes_equal_runs_one_after_another(tmp_path: Path) -> None:
    job = small_job(*SMALL)
    methods = ["sflora", "fedlora"]
    alone = compare(job, methods=methods, out=tmp_path / "alone")
    side_by_side = compare(job, methods=methods, out=tmp_path / "together", workers=2)
    for one, other in zip(alone.results, side_by_side.results, strict=True):
        assert equal(one.adapter, other.adapter)
        assert one.accuracy == other.accuracy
        assert one.rows[0].traffic == other.rows[0].traffic
        assert other.adapter_folder.is_dir()
    assert (tmp_path / "together" / "comparison.md").is_file()


def test_a_run_that_fails_ends_the_others_and_says_why(tmp_path: Path) -> None:
    bad = small_job(*SMALL, "training.optimizer=sgd", "training.lr=1e30")
    good = small_job("training.rounds=200")
    runs = [Run(good, tmp_path / "good"), Run(bad, tmp_path / "bad")]
    with pytest.raises(RunError, match=r"--workers: the run in .*bad failed: .*lower the learn"):
        run_in_processes(runs, 2, lambda said: None)


def test_no_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="--workers: 0 runs nothing"):
        compare(small_job(), methods=["sflora"], out=tmp_path / "out", workers=0)
