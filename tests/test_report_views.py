"""Views say what the records say: packed arrays, curves, turns, allocations, tables and tests."""

import base64
import json
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cutlayer.allocate.decision import Decision
from cutlayer.job import change_job
from cutlayer.reports import page
from cutlayer.reports.views import (
    classes,
    comparison,
    curves,
    devices,
    patches,
    rounds,
    statistics,
    summary,
)
from cutlayer.reports.views.pack import pack, plain, spread
from cutlayer.reports.views.runs import STAGES, Run, lines_of
from report_runs import made_holdings, made_patches, made_places, made_run, made_spans


def unpack(packed: dict) -> np.ndarray:
    """As `unpack` of base.js."""
    kind = "<u2" if packed["bytes"] == 2 else "u1"
    codes = np.frombuffer(zlib.decompress(base64.b64decode(packed["deflated"])), dtype=kind)
    values = packed["low"] + packed["step"] * codes.astype(float)
    values = np.exp(values) if packed["log"] else values
    values[codes == (65535 if packed["bytes"] == 2 else 255)] = np.nan
    return values.reshape(packed["shape"])


@given(st.lists(st.one_of(st.integers(0, 65534), st.just(float("nan"))), max_size=50))
def test_whole_numbers_and_gaps_come_back_as_they_were(values):
    assert np.array_equal(unpack(pack(values)), np.array(values, dtype=float), equal_nan=True)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_other_numbers_come_back_within_half_a_step(values):
    step = (max(values) - min(values)) / 65534
    assert unpack(pack(values)) == pytest.approx(values, abs=0.51 * step + 1e-9)


def test_numbers_of_many_sizes_keep_their_digits_with_log():
    values = np.geomspace(1e-3, 1e6, 1000)
    assert unpack(pack(values, "log")) == pytest.approx(values, rel=2e-4)
    assert unpack(pack(values))[200] != pytest.approx(values[200], rel=0.1)


def test_infinity_is_a_gap_and_json_has_no_nan():
    assert np.isnan(unpack(pack([1.0, np.inf]))[1])
    text = json.dumps(plain({"a": [np.float64("nan"), 1 / 3, np.int64(3)]}), allow_nan=False)
    assert text == '{"a": [null, 0.333333, 3]}'


def test_thinning_keeps_the_first_and_the_last():
    assert spread(range(5), 10) == [0, 1, 2, 3, 4]
    kept = spread(range(1000), 7)
    assert len(kept) == 7
    assert (kept[0], kept[-1]) == (0, 999)
    assert max(np.diff(kept)) - min(np.diff(kept)) <= 1


# ---- classes and devices ----


def test_classes_are_told_by_accuracy_f1_and_confusion():
    view = classes.classes(replace(made_run(), classes=("bag", "coat", "shoe")))
    assert "25 % (bag) to 75 % (coat)" in view["text"]
    assert "macro F1" in view["text"]
    assert "on 100 test samples" in view["text"]
    assert view["data"]["samples"] == [40, 60, 0]
    assert unpack(view["data"]["matrix"]) == pytest.approx(
        np.array([[25, 75, 0], [0, 75, 25], [0, 0, 0]]), abs=0.01
    )
    assert view["data"]["wrong"] == [["bag", "coat", 30], ["coat", "shoe", 15]]
    assert classes.classes(made_run())["data"]["names"] == ["class 0", "class 1", "class 2"]


def test_a_record_without_classes_says_so():
    run = made_run()
    view = classes.classes(replace(run, rows=[replace(run.rows[0], class_accuracy=[])]))
    assert view["kind"] == "missing"


def test_held_out_samples_stand_beside_the_figure_by_mix_of_labels():
    view = devices.devices(made_run())
    assert "weighted by a device's own mix of labels" in view["text"]
    assert "on its own held-out samples (2 in all) 50 to 50 %" in view["text"]
    assert view["data"]["held_out"] == [50, None, None, None]


# ---- lines ----


def test_seeds_of_one_job_are_one_line_and_methods_are_lines_of_their_own():
    runs = [made_run("tsflora", 1), made_run("sflora", 0), made_run("tsflora", 0)]
    found = lines_of(runs)
    assert [line.label for line in found] == ["tsflora", "sflora"]
    assert [run.job.seed for run in found[0].runs] == [0, 1]


def test_one_method_with_other_settings_is_named_by_them():
    small = made_run("tsflora", name="small")
    small = replace(small, job=change_job(small.job, ["method.tokens.keep=6"]))
    keep = made_run("tsflora").job.method.tokens.keep
    labels = [line.label for line in lines_of([made_run("tsflora"), small])]
    assert labels == [f"tsflora tokens.keep={keep}", "tsflora tokens.keep=6"]


def test_a_job_that_ran_twice_with_one_seed_is_two_lines_named_by_folder():
    found = lines_of([made_run(name="first"), made_run(name="again")])
    assert [line.label for line in found] == ["tsflora (first)", "tsflora (again)"]


# ---- one run ----


def test_the_headline_is_measured_against_the_reference():
    view = summary.headline(made_run(megabytes=1), made_run("sflora", accuracy=0.6, megabytes=4))
    shown = {one["name"]: (one["value"], one["note"]) for one in view["data"]["figures"]}
    assert shown["accuracy"] == ("50.0 %", "-10.0 points, of 100 test samples")
    assert shown["sent up"] == ("3.00 MB", "4.00 x less")
    assert shown["time in its world"] == ("6.00 s", "the same")


def test_a_run_that_is_not_finished_says_so():
    run = made_run(rounds=3)
    view = summary.headline(replace(run, rows=run.rows[:2]))
    assert "2 of 3 rounds" in view["data"]["notes"][0]


def test_settings_that_differ_from_the_method_s_own_come_first():
    view = summary.job(made_run("tsflora", devices=7))
    changed = {row["path"]: row["value"] for row in view["data"]["changed"]}
    assert changed == {"devices.count": "7", "training.rounds": "3"}
    assert any(row["path"] == "method.tokens.keep" for row in view["data"]["same"])


def test_every_turn_of_a_device_is_counted_once():
    run = made_run(devices=4)
    rows = list(run.rows)
    without = {m: one for m, one in rows[0].decisions.items() if m != 3}
    rows[0] = replace(rows[0], decisions=without, left_out={3: "no coverage"})
    rows[1] = replace(rows[1], late=[1], lost=[2])
    turns = devices.devices(replace(run, rows=rows))["data"]["turns"]
    assert turns == {
        "took part": [3, 2, 2, 2],
        "too late": [0, 1, 0, 0],
        "lost": [0, 0, 1, 0],
        "left out": [0, 0, 0, 1],
    }


def test_the_allocation_holds_every_decision_and_names_what_is_alike():
    run = made_run(devices=4)
    rows = list(run.rows)
    first = dict(rows[0].decisions) | {2: Decision(1, None, 4, 8, 5e5, 0.2)}
    del first[1]
    rows[0] = replace(rows[0], decisions=first)
    data = rounds.allocation(replace(run, rows=rows, whole=49))["data"]
    shown = {one["key"]: one for one in data["quantities"]}
    alike = {one["key"]: one["value"] for one in data["alike"]}
    assert alike["bits"] == 4
    assert alike["power"] == 200
    tokens = unpack(shown["tokens"]["values"])
    assert tokens[2, 0] == shown["tokens"]["all"] == 49
    assert np.isnan(tokens[1, 0])
    assert tokens[3, 1] == rows[1].decisions[3].tokens
    bandwidth = unpack(shown["bandwidth"]["values"])
    assert bandwidth[3, 2] == pytest.approx(rows[2].decisions[3].bandwidth_hz / 1e6, rel=1e-3)


def test_a_long_run_is_thinned_and_the_view_says_so():
    view = rounds.allocation(made_run(devices=10, rounds=100), cells=200)
    assert len(view["data"]["rounds"]) == 20
    assert view["data"]["rounds"][-1] == 100
    assert "20 of 100 rounds" in view["text"]


def test_timelines_keep_start_end_stage_and_device_of_each_span():
    run = made_run(devices=3)
    spans = made_spans(run)
    named = replace(run, rounds=spans, names={1: "cam-0001"})
    data = rounds.gantt(named)["data"]
    size = data["sizes"][0]
    second = slice(size, size + data["sizes"][1])
    last = data["last"][1]
    assert unpack(data["start"])[second] * last == pytest.approx(spans[1].start_s, abs=1e-3)
    assert unpack(data["end"])[second] * last == pytest.approx(spans[1].end_s, abs=1e-3)
    assert [data["stages"][int(i)] for i in unpack(data["stage"])[second]] == [
        STAGES[i] for i in spans[1].stage
    ]
    assert data["devices"][1] == list(run.rows[1].decisions)
    assert data["names"] == {1: "cam-0001"}


def test_a_standing_fleet_is_placed_once_and_a_moving_one_each_round():
    run = made_run(devices=5)
    moving = made_places(run)
    data = rounds.fleet(replace(run, names={4: "cam-0004"}), moving)["data"]
    assert data["x"]["shape"] == [3, 5]
    assert data["names"] == {4: "cam-0004"}
    assert unpack(data["rate"]) == pytest.approx(moving.uplink_bps / 1e6, rel=1e-3)
    standing = replace(moving, x_m=moving.x_m[[0, 0, 0]], y_m=moving.y_m[[0, 0, 0]])
    assert rounds.fleet(run, standing)["data"]["x"]["shape"] == [1, 5]


def test_curves_are_means_of_seeds_with_their_range():
    found = lines_of([made_run(seed=0, accuracy=0.4), made_run(seed=1, accuracy=0.6)])
    charts = {chart["title"]: chart for chart in curves.curves(found)["data"]["charts"]}
    (series,) = charts["By round"]["series"]
    assert series["y"][-1] == pytest.approx(50)
    assert (series["low"][-1], series["high"][-1]) == pytest.approx((40, 60))
    assert charts["By megabyte"]["series"][0]["x"] == pytest.approx([1, 2, 3])


# ---- several runs ----


def test_the_best_of_each_column_is_marked():
    found = lines_of([made_run("sflora", accuracy=0.7, megabytes=8), made_run("tsflora")])
    sflora, tsflora = comparison.table(found)["data"]["rows"]
    assert sflora["accuracy"]["best"]
    assert not tsflora["accuracy"]["best"]
    assert tsflora["up"]["best"]
    assert not sflora["up"]["best"]
    assert not sflora["seconds"]["best"]  # alike for both: nobody is better
    assert not tsflora["seconds"]["best"]


def test_runs_of_other_data_are_flagged():
    other = made_run("sflora")
    other = replace(other, job=change_job(other.job, ["data.train_samples=500"]))
    notes = comparison.table(lines_of([made_run("tsflora"), other]))["data"]["notes"]
    assert any("data.train_samples" in note for note in notes)
    notes = comparison.table(lines_of([made_run("tsflora"), made_run("sflora")]))["data"]["notes"]
    assert not any("Not one task" in note for note in notes)


@pytest.mark.parametrize(("seeds", "said"), [(1, "unknown: 1 seed"), (2, "unknown: 2 seeds")])
def test_too_few_seeds_decide_nothing(seeds, said):
    runs = [
        made_run(name, seed, accuracy)
        for name, accuracy in (("sflora", 0.3), ("tsflora", 0.9))
        for seed in range(seeds)
    ]
    rows = comparison.table(lines_of(runs))["data"]["rows"]
    assert [row["verdict"]["text"] for row in rows] == [said, "the highest"]


def test_enough_seeds_tell_a_steady_difference_from_none():
    noise = [0.00, 0.02, -0.01, 0.015]
    runs = [made_run("tsflora", seed, 0.7 + noise[seed]) for seed in range(4)]
    runs += [made_run("sflora", seed, 0.6 + noise[seed] + 0.001 * seed) for seed in range(4)]
    runs += [made_run("fedlora", seed, 0.7 - noise[seed]) for seed in range(4)]
    rows = comparison.table(lines_of(runs))["data"]["rows"]
    text = {row["label"]: row["verdict"]["text"] for row in rows}
    assert text["tsflora"] == "the highest"
    assert text["sflora"].startswith("lower (p")
    assert text["fedlora"].startswith("not told apart (p")


def test_the_front_holds_only_runs_that_no_other_beats():
    runs = [made_run("sflora", megabytes=8, accuracy=0.6), made_run("tsflora", accuracy=0.5)]
    runs.append(made_run("fedlora", megabytes=9, accuracy=0.4))
    view = comparison.pareto(lines_of(runs))
    assert view is not None
    front = {point["label"]: point["front"] for point in view["data"]["points"]}
    assert front == {"sflora": True, "tsflora": True, "fedlora": False}


# ---- statistics ----


@given(st.floats(-40, 40), st.floats(1, 200))
def test_the_tails_are_those_of_student_s_t(t, freedom):
    expected = 2 * stats.t.sf(abs(t), freedom)
    assert statistics.two_sided(t, freedom) == pytest.approx(expected, rel=1e-6, abs=0)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=9))
def test_paired_and_welch_agree_with_scipy(pairs):
    ours, theirs = ([round(value, 3) for value in side] for side in zip(*pairs, strict=True))
    if len(set(np.round(np.subtract(ours, theirs), 6))) > 1:
        found = statistics.compare_means(dict(enumerate(ours)), dict(enumerate(theirs)))
        expected = stats.ttest_rel(ours, theirs).pvalue
        assert found == (pytest.approx(expected, rel=1e-6), statistics.PAIRED)
    if len(set(ours)) > 1 and len(set(theirs)) > 1:
        apart = {100 + seed: value for seed, value in enumerate(theirs)}
        found = statistics.compare_means(dict(enumerate(ours)), apart)
        expected = stats.ttest_ind(ours, theirs, equal_var=False).pvalue
        assert found == (pytest.approx(expected, rel=1e-6), statistics.WELCH)


def test_holm_steps_down_and_keeps_the_order():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])


# ---- all of a run ----


def whole_run(**settings) -> Run:
    run = made_run(**settings)
    return replace(
        run,
        whole=49,
        holdings=made_holdings(run),
        rounds=made_spans(run),
        places=made_places(run),
        patches=made_patches(),
    )


def test_a_run_that_knows_all_shows_all_and_one_that_does_not_says_why():
    kinds = [view["kind"] for view in page.views_of(whole_run())]
    assert kinds == [
        "headline", "job", "curves", "classes", "labels", "devices", "gantt", "allocation", "fleet",
        "patches",
    ]  # fmt: skip
    poor = replace(made_run(), missing={"fleet": "the job has no world"})
    views = {view["id"]: view for view in page.views_of(poor)}
    assert views["fleet"]["kind"] == "missing"
    assert "the job has no world" in views["fleet"]["text"]
    json.dumps(list(views.values()), allow_nan=False)


def test_images_are_small_pictures_in_the_page():
    view = patches.patches(made_patches())
    one = view["data"]["images"][0]
    assert one["source"].startswith("data:image/png;base64,")
    assert sorted(one["ranks"]) == list(range(16))


def test_views_and_pages_need_no_torch():
    code = "import sys, cutlayer.reports.page; assert not {'torch', 'matplotlib'} & {*sys.modules}"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
