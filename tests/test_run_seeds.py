"""A comparison over seeds: mean, range, paired differences, and labels that are kept."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import cutlayer
from cutlayer.errors import JobError
from cutlayer.reports.read_runs import read_run, run_folders
from cutlayer.reports.views.runs import Run, lines_of
from cutlayer.reports.views.statistics import paired_interval
from helpers import small_job

FEW = ("data.train_samples=60", "data.test_samples=20", "training.rounds=1", "devices.count=2")


def runs_in(folder: Path) -> list[Run]:
    return [read_run(one, pytest.fail) for one in run_folders(folder)]


def test_every_method_is_run_with_every_seed_under_its_label(tmp_path: Path) -> None:
    methods = ["sflora", "small = tsflora tokens.keep=12"]
    found = cutlayer.compare(
        small_job(*FEW), methods=methods, seeds=[0, 3], out=tmp_path / "compared"
    )
    assert found.labels == ["sflora", "small"]
    assert [result.job.seed for result in found.results] == [0, 3, 0, 3]
    small = found.lines[1].accuracy
    assert found.rows[1]["accuracy"] == list(small.values())
    assert all(ratio > 1 for ratio in found.rows[1]["ratio"])
    text = (tmp_path / "compared" / "comparison.md").read_text()
    assert "on 20 test samples" in text
    assert "## Against sflora" in text
    assert "Student's t" in text
    # The report calls the lines what the comparison called them.
    lines = lines_of(runs_in(tmp_path / "compared"))
    assert sorted(line.label for line in lines) == ["sflora", "small"]
    assert [[run.job.seed for run in line.runs] for line in lines] == [[0, 3], [0, 3]]
    # A seed of a comparison is the run of that seed.
    alone = cutlayer.simulate(small_job(*FEW, "seed=3"), out=tmp_path / "alone")
    assert alone.accuracy == found.lines[0].accuracy[3]


def test_a_comparison_whose_labels_are_damaged_is_named_by_its_methods(tmp_path: Path) -> None:
    cutlayer.compare(small_job(*FEW), methods=["mine = sflora"], out=tmp_path / "compared")
    names = tmp_path / "compared" / "comparison.json"
    assert json.loads(names.read_text()) == {"mine": "mine"}
    (run,) = runs_in(tmp_path / "compared")
    assert run.label == "mine"
    names.write_text("[")
    (run,) = runs_in(tmp_path / "compared")
    assert lines_of([run])[0].label == "sflora"


@pytest.mark.parametrize("seeds", [[0, 0], [-1], [0.5], [True]])
def test_what_are_no_seeds_is_refused_before_anything_runs(tmp_path: Path, seeds: list) -> None:
    with pytest.raises(JobError, match="--seeds: "):
        cutlayer.compare(small_job(*FEW), methods=["sflora"], seeds=seeds, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=9))
def test_the_interval_of_paired_differences_is_student_s(pairs: list[tuple[float, float]]) -> None:
    ours = {seed: pair[0] for seed, pair in enumerate(pairs)}
    theirs = {seed: pair[1] for seed, pair in enumerate(pairs)}
    found = paired_interval(ours, theirs)
    assert found is not None
    differences = [one - other for one, other in pairs]
    middle = sum(differences) / len(pairs)
    spread = math.sqrt(sum((d - middle) ** 2 for d in differences) / (len(pairs) - 1))
    half = stats.t.ppf(0.975, len(pairs) - 1) * spread / math.sqrt(len(pairs))
    assert found == pytest.approx((middle, middle - half, middle + half), abs=1e-9, rel=1e-9)
    assert paired_interval(ours, {0: 1.0}) is None
