"""The report: one page that a browser opens without a network, and figures for a paper."""

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from browsers import Opened
from cutlayer.cli import main
from cutlayer.job import dump_job
from cutlayer.record.checkpoint import load_state
from cutlayer.reports import page, replay
from cutlayer.reports.build_report import report
from cutlayer.reports.views.runs import STAGES, Holdings, Run, lines_of
from cutlayer.simulation.simulate import simulate
from cutlayer.train.parts import load_parts
from cutlayer.wire.tokens import select
from helpers import small_job
from report_runs import VIEWS, made_holdings, made_patches, made_places, made_run, made_spans

WORLD = {"reference_loss_db": 75.0, "mobility": {"kind": "redraw"}}
SMALL = {"train_samples": 60, "test_samples": 20, "partition": {"min_samples": 8}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods with two seeds each, in a world: a folder of four runs."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("sflora", "tsflora"):
        for seed in (0, 1):
            job = small_job(f"seed={seed}", method=method, world=WORLD, data=SMALL)
            simulate(job, out=folder / f"{method}-{seed}")
    return folder


def whole_run(**settings: Any) -> Run:
    run = made_run(**settings)
    return replace(
        run,
        whole=49,
        holdings=made_holdings(run),
        rounds=made_spans(run),
        places=made_places(run),
        patches=made_patches(),
    )


def html_of(run: Run) -> str:
    return page.render([run], lines_of([run]))


# ---- what is computed anew ----


@pytest.mark.parametrize("method", ["sflora", "st-sflora", "split-lora", "centralized"])
def test_a_round_s_timeline_is_that_of_the_run(tmp_path: Path, method: str) -> None:
    job = small_job("devices.per_round=3", method=method, world=WORLD, data=SMALL)
    result = simulate(job, out=tmp_path / "run")
    spec = load_parts(job).model.spec
    spans = replay.timelines(job, spec, result.rows)
    assert [one.round for one in spans] == [0, 1]
    for one, row in zip(spans, result.rows, strict=True):
        last = float(one.end_s.max(initial=0.0))
        assert last == pytest.approx(row.virtual_s, rel=1e-6)
        assert list(one.devices) == row.cohort


def test_patches_kept_are_those_that_would_be_sent(runs: Path) -> None:
    folder = runs / "tsflora-0"
    job = small_job(method="tsflora", world=WORLD, data=SMALL)
    parts = load_parts(job)
    adapter = load_state(folder / "state.safetensors").adapter
    found = replay.patches(job, parts, adapter, cut=2, images=3)
    assert len(set(found.labels)) == 3
    assert (found.budgets, found.own) == ([6, 12, 24], None)
    own = replay.patches(job, parts, adapter, cut=2, images=1, keep=16)
    assert (own.budgets, own.own) == ([6, 12, 16, 24], 16)
    count, prefix = found.ranks.shape[1], parts.model.spec.prefix
    for keep in (1, 7, 24, 48):
        tokens = job.method.tokens.model_copy(update={"keep": keep})
        for ranks in found.ranks:
            hidden = torch.zeros(1, prefix + count, 2)
            sent = select(hidden, torch.from_numpy(-ranks[None].astype(np.float32)), prefix, tokens)
            assert sent.kept[0].tolist() == np.flatnonzero(ranks < keep).tolist()
    with_all = [answers[0] for answers in found.predicted]
    assert set(with_all) <= set(parts.train.classes)


# ---- the file ----


def test_the_page_holds_all_it_needs_and_asks_nobody(runs: Path, tmp_path: Path) -> None:
    written = report([runs / "tsflora-0"], out=tmp_path / "sub" / "report.html", images=2)
    text = written.page.read_text()
    assert "default-src 'none'" in text
    links = set(re.findall(r"https?://[^\s\"'<)]+", text)) - {"http://www.w3.org/2000/svg"}
    assert not links
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", text)
    assert '"kind":"missing"' not in text
    assert len(text) < 300_000


def test_a_name_cannot_end_the_script(tmp_path: Path) -> None:
    run = made_run()
    counts = np.ones((4, 2), dtype=np.int64)
    evil = replace(run, holdings=Holdings(["</script><b>x", "y"], counts))
    assert "</script><b>" not in html_of(evil)


@pytest.fixture(scope="module")
def largest() -> str:
    """The page of a run of 1,000 rounds and 100 devices, with as many spans as it may hold."""
    run = whole_run(devices=100, rounds=1000)
    assert len(run.rounds) == 1000
    share = 1000 // (replay.MOST_SPANS // len(run.rounds[0].place)) + 1
    return html_of(replace(run, rounds=run.rounds[::share]))


def test_a_run_of_a_thousand_rounds_and_a_hundred_devices_stays_below_six_megabytes(
    largest: str,
) -> None:
    assert 1e6 < len(largest.encode()) < 6e6


@pytest.mark.usefixtures("figures")
def test_figures_come_as_png_svg_and_pdf(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    written = report([runs], out=tmp_path / "all.html", images=2, figures_folder=folder)
    names = {path.stem for path in written.figures}
    assert names >= {
        "accuracy-by-round", "accuracy-by-second", "labels", "pareto", "patches", "round",
    }  # fmt: skip
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert {path.suffix for path in written.figures} == starts.keys()
    for path in written.figures:
        assert path.read_bytes().startswith(starts[path.suffix]), path
    assert sorted(folder.iterdir()) == written.figures


# ---- what the command says ----


def command(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["cutlayer", "report", *map(str, words)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command_names_the_page(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    words = (runs / "tsflora-0", "--reference", runs / "sflora-0", "--images", "0", "--out", out)
    assert command(monkeypatch, *words) == 0
    assert str(out) in capsys.readouterr().out
    assert "no images were asked for" in out.read_text()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("not a run", "is no run folder"),
        ("no round", "has no finished round yet"),
        ("only a bad line", "has no finished round yet"),
        ("a bad job", "job.yaml is no job this version reads"),
        ("no record", "cannot read"),
    ],
)
def test_a_folder_that_is_no_run_is_one_sentence(
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    fault: str,
    said: str,
) -> None:
    folder = tmp_path / "run"
    if fault == "not a run":
        folder.mkdir()
    else:
        shutil.copytree(runs / "tsflora-0", folder)
    record = folder / "rounds.jsonl"
    if fault == "no round":
        record.write_text("")
    if fault == "only a bad line":
        record.write_text("nonsense\n")
    if fault == "a bad job":
        (folder / "job.yaml").write_text("model: {deep: 3}")
    if fault == "no record":
        record.unlink()
    assert command(monkeypatch, folder, "--out", tmp_path / "r.html") == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_damaged_lines_and_damaged_runs_cost_themselves_and_are_named(
    runs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "run"
    shutil.copytree(runs / "tsflora-0", folder)
    shutil.copytree(folder, tmp_path / "runs" / "broken")
    (tmp_path / "runs" / "broken" / "job.yaml").write_text("model: {deep: 3}")
    record = folder / "rounds.jsonl"
    record.write_text("nonsense\n" + record.read_text())
    found = report([tmp_path / "runs"], out=tmp_path / "r.html", images=0)
    assert found.page.exists()
    line, broken = found.left_out
    assert "line 1 of" in line
    assert "broken/job.yaml is no job" in broken


def test_a_run_whose_data_are_elsewhere_is_still_reported(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(runs / "tsflora-0", folder)
    gone = small_job("data.source=folder", "data.path=/nowhere", method="tsflora", world=WORLD)
    (folder / "job.yaml").write_text(dump_job(gone))
    text = report([folder], out=tmp_path / "r.html").page.read_text()
    assert "/nowhere" in text
    assert text.count('"kind":"missing"') == 2  # labels and patches; the timeline is there


# ---- in a browser ----


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "one.html"
    path.write_text(html_of(whole_run(devices=12, rounds=6)))
    return path


def drawn_in(shown: Any) -> set[str]:
    """The views of a page's run that hold more than a sentence on why they are not shown."""
    drawn = "all => all.filter(one => one.dataset.kind !== 'missing').map(one => one.id)"
    return {name.removeprefix("run-") for name in shown.eval_on_selector_all("section", drawn)}


@pytest.mark.parametrize(
    ("width", "scheme"), [(1200, "light"), (1200, "dark"), (320, "light"), (320, "dark")]
)
def test_every_view_is_drawn_in_every_light_and_width(
    browser: Any, one: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    opened = Opened(browser, one.as_uri(), width, scheme)
    shown = opened.page
    assert drawn_in(shown) == VIEWS
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    blank = shown.eval_on_selector_all(
        "canvas.chart, .patches canvas",
        """all => all.filter(one => {
            const {data} = one.getContext('2d').getImageData(0, 0, one.width, one.height);
            return new Set(new Uint32Array(data.buffer)).size < 3 || !one.clientWidth;
        }).length""",
    )
    assert blank == 0
    drawn = "all => all.map(one => one.querySelectorAll('path,polyline,circle').length)"
    assert min(shown.eval_on_selector_all("svg.chart", drawn)) > 0
    paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 380) == (scheme == "dark")
    shown.screenshot(path=tmp_path / "page.png", full_page=True)
    assert opened.quiet()


def test_light_and_dark_can_be_chosen_and_are_redrawn(browser: Any, one: Path) -> None:
    opened = Opened(browser, one.as_uri())
    shown = opened.page
    pixel = "document.querySelector('#run-labels canvas').toDataURL()"
    before = shown.evaluate(pixel)
    shown.select_option("select.theme", "dark")
    assert shown.evaluate(pixel) != before
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 19, 23)"
    assert opened.quiet()


def test_the_timeline_shows_no_two_stages_alike(browser: Any, one: Path) -> None:
    opened = Opened(browser, one.as_uri())
    looks = opened.page.eval_on_selector_all(
        "#run-gantt .legend .chip",
        "all => all.map(getComputedStyle).map(s => s.backgroundColor + s.backgroundImage)",
    )
    assert len(looks) == len(STAGES) == len(set(looks))
    assert opened.quiet()


def test_one_slider_moves_all_views_of_a_round(browser: Any, one: Path) -> None:
    opened = Opened(browser, one.as_uri())
    shown = opened.page
    shown.focus("#run-gantt input[type=range]")
    shown.keyboard.press("Home")
    for view in ("gantt", "allocation", "fleet"):
        assert shown.text_content(f"#run-{view} output") == "round 1"
    shown.click("#run-fleet [aria-label='Next round']")
    assert shown.text_content("#run-gantt output") == "round 2"
    assert "Round 2:" in shown.text_content("#run-allocation")
    assert opened.quiet()


def test_charts_are_read_with_arrow_keys_and_have_names(browser: Any, one: Path) -> None:
    opened = Opened(browser, one.as_uri())
    shown = opened.page
    for target in ("curves svg.chart", "labels canvas", "gantt canvas", "fleet svg.chart"):
        shown.focus(f"#run-{target}")
        shown.keyboard.press("ArrowRight")
        shown.keyboard.press("ArrowDown")
        assert shown.is_visible(".tip"), target
        assert len(shown.text_content(".tip")) > 5
    nameless = shown.evaluate(
        """[...document.querySelectorAll('svg.chart, canvas, input, select, button, [role=region]')]
            .filter(one => !(one.ariaLabel || one.textContent.trim() || one.labels?.length)
                           ).map(one => one.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    assert shown.evaluate("document.querySelectorAll('h1').length") == 1
    assert opened.quiet()


def test_tables_sort_and_numbers_open(browser: Any, one: Path) -> None:
    opened = Opened(browser, one.as_uri())
    shown = opened.page
    head = shown.locator("#run-allocation th button", has_text="energy")
    column = head.evaluate("one => one.closest('th').cellIndex")
    for way in (1, -1):
        head.click()
        cells = shown.eval_on_selector_all(
            "#run-allocation tbody tr",
            f"rows => rows.map(row => parseFloat(row.cells[{column}].textContent))",
        )
        assert cells == sorted(cells, reverse=way < 0)
    shown.locator("#run-curves summary").first.click()
    shown.wait_for_selector("#run-curves details table")
    assert shown.locator("#run-curves details tbody tr").count() == 6
    assert opened.quiet()


def test_several_runs_stand_side_by_side_and_one_by_one(
    browser: Any, runs: Path, tmp_path: Path
) -> None:
    written = report([runs], out=tmp_path / "all.html", images=2)
    opened = Opened(browser, written.page.as_uri())
    shown = opened.page
    kinds = shown.eval_on_selector_all("section", "all => all.map(one => one.dataset.kind)")
    assert kinds[:3] == ["comparison", "curves", "pareto"]
    assert "unknown: 2 seeds" in shown.text_content("#all-comparison")
    assert shown.locator("#all-comparison .best").count() > 0
    assert shown.locator("#all-curves .band").count() > 0
    button = shown.locator("#all-curves .legend button").first
    lines = shown.locator("#all-curves polyline").count()
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert shown.locator("#all-curves polyline").count() < lines
    shown.select_option("#run", label="tsflora, seed 0")
    shown.wait_for_selector("#run-patches canvas")
    assert "tsflora" in shown.text_content("#run-job")
    assert opened.quiet()


def test_runs_that_were_not_evaluated_yet_are_drawn_without_accuracy(
    browser: Any, tmp_path: Path
) -> None:
    young = [
        replace(run, rows=[replace(run.rows[0], accuracy=None, label_mix_accuracy=[])])
        for run in (made_run("sflora"), made_run("tsflora"))
    ]
    path = tmp_path / "young.html"
    path.write_text(page.render(young, lines_of(young)))
    opened = Opened(browser, path.as_uri())
    assert "not measured yet" in opened.page.text_content("#all-comparison")
    assert opened.page.locator("#all-curves figure").count() == 1
    assert opened.quiet()


def test_the_largest_run_is_drawn_and_printed(browser: Any, largest: str, tmp_path: Path) -> None:
    path = tmp_path / "large.html"
    path.write_text(largest)
    opened = Opened(browser, path.as_uri())
    assert drawn_in(opened.page) == VIEWS
    assert opened.page.pdf(path=tmp_path / "large.pdf").startswith(b"%PDF")
    assert opened.quiet()
