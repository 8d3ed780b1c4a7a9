"""What a paper takes from a comparison: a sentence, a CSV, a LaTeX table, narrow figures."""

import csv
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.cli import main
from cutlayer.drawing.style import Column
from cutlayer.errors import RunError
from cutlayer.job import dump_job
from cutlayer.record.folder import JOB_FILE, LABELS_FILE
from cutlayer.record.row_lines import FILE, line_of
from cutlayer.reports.build_report import report
from cutlayer.reports.paper_tables import as_csv, as_latex, escape
from cutlayer.reports.read_runs import run_folders
from cutlayer.reports.views.finding import finding
from cutlayer.reports.views.runs import Line, lines_of
from report_runs import made_run

ACCURACY = {"sflora": (0.50, 0.52, 0.54), "auto": (0.70, 0.71, 0.75)}


def made_lines() -> list[Line]:
    return lines_of(
        made_run(method, seed=seed, accuracy=accuracy, megabytes=1 + seed)
        for method, found in ACCURACY.items()
        for seed, accuracy in enumerate(found)
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of comparisons, each a folder of runs of one method."""
    folder = tmp_path_factory.mktemp("runs")
    for line in made_lines():
        for run in line.runs:
            own = folder / line.label / f"seed-{run.job.seed}"
            own.mkdir(parents=True)
            (own / JOB_FILE).write_text(dump_job(run.job))
            (own / FILE).write_text("".join(line_of(row) + "\n" for row in run.rows))
    labels = '{"seed-0": "ours & best", "seed-1": "ours & best", "seed-2": "ours & best"}'
    (folder / "auto" / LABELS_FILE).write_text(labels)
    return folder


def test_the_sentence_says_what_won_by_how_much_and_how_surely() -> None:
    said = finding([(label, dict(enumerate(found))) for label, found in ACCURACY.items()])
    assert said.startswith("auto has the highest accuracy, 72.0 % (mean of 3 seeds), 20.0 points")
    low, high = map(float, re.search(r"difference ([\d.]+) to ([\d.]+)", said).groups())
    assert low < 20 < high
    assert "tell it apart from every other" in said


def test_the_sentence_claims_nothing_that_seeds_do_not_carry() -> None:
    near = {0: 0.5, 1: 0.6, 2: 0.7}
    also = {0: 0.6, 1: 0.5, 2: 0.69}
    assert "do not tell it apart from b" in finding([("a", near), ("b", also)])
    other_seeds = {0: 0.5, 1: 0.52, 9: 0.9}
    assert "over the 2 seeds that both have 9.0, 95 % interval 9.0 to 9.0" in finding(
        [("a", other_seeds), ("b", {0: 0.41, 1: 0.43})]
    )
    assert "Fewer than 3 seeds" in finding([("a", {0: 0.5}), ("b", {0: 0.4})])
    assert finding([("a", near), ("b", near)]).endswith("and so has b.")
    assert finding([("a", near)]) == ""
    assert finding([("a", near), ("b", {})]) == ""


def test_the_csv_has_the_numbers_of_every_seed() -> None:
    rows = list(csv.DictReader(as_csv(made_lines()).splitlines()))
    assert [row["label"] for row in rows] == list(ACCURACY)
    for row, found in zip(rows, ACCURACY.values(), strict=True):
        assert row["seeds"] == "0 1 2"
        assert float(row["accuracy (%) mean"]) == pytest.approx(100 * mean(found))
        assert float(row["accuracy (%) standard deviation"]) == pytest.approx(100 * stdev(found))
        # Student's t of 2 degrees of freedom leaves 5 % beyond 4.303.
        half = 4.30265 * 100 * stdev(found) / 3**0.5
        assert float(row["accuracy (%) 95 % half-width"]) == pytest.approx(half, rel=1e-5)


def test_the_latex_table_is_whole_and_marks_the_best() -> None:
    text = as_latex(made_lines())
    assert text.startswith("% mean and standard deviation over seeds")
    head, *_ = [line for line in text.splitlines() if line.startswith("method")]
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count(" & ") for line in body}) == 1
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    assert f"{{l{'r' * head.count(' & ')}}}" in text
    assert r"\textbf{72.0} $\pm$ 2.6" in text


def test_what_is_printed_alike_is_marked_alike() -> None:
    near = {"sflora": [0.70002, 0.71], "auto": [0.70001, 0.71], "asfv": [0.6, 0.61]}
    text = as_latex(
        lines_of(
            made_run(method, seed=seed, accuracy=accuracy)
            for method, found in near.items()
            for seed, accuracy in enumerate(found)
        )
    )
    accuracy = next(line for line in text.splitlines() if line.startswith("accuracy"))
    assert accuracy.count(r"\textbf{70.5}") == 2
    assert accuracy.count(r"\textbf") == 2


@given(st.text(max_size=40))
def test_no_label_breaks_the_latex_table(text: str) -> None:
    shown = escape(text)
    for mark in "&%$#_":
        assert shown.count(mark) == shown.count(f"\\{mark}") == text.count(mark)
    assert "\n" not in shown


def test_runs_of_a_comparison_are_read_in_its_order(runs: Path) -> None:
    (runs / "sflora" / LABELS_FILE).write_text('{"seed-2": "c", "seed-0": "a", "seed-1": "b"}')
    try:
        assert [one.name for one in run_folders(runs / "sflora")] == ["seed-2", "seed-0", "seed-1"]
    finally:
        (runs / "sflora" / LABELS_FILE).unlink()


def test_pdflatex_sets_the_table(tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex (apt-get install texlive-latex-recommended)")
    lines = [replace(line, label=f"{line.label} & 50 % of {{#_1}} ~^") for line in made_lines()]
    page = (
        r"\documentclass{article}\usepackage{booktabs}",
        r"\begin{document}",
        as_latex(lines),
        r"\end{document}",
    )
    (tmp_path / "page.tex").write_text("\n".join(page))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:]
    assert (tmp_path / "page.pdf").stat().st_size > 1000


@pytest.mark.usefixtures("figures")
def test_nested_folders_labels_tables_and_figures_of_a_column(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["cutlayer", "report", str(runs), "--out", str(tmp_path / "r.html"), "--images", "0"]
    words += ["--csv", str(tmp_path / "t.csv"), "--latex", str(tmp_path / "t.tex")]
    words += ["--figures", str(tmp_path / "figures"), "--formats", "pdf"]
    words += ["--width", "88mm", "--font", "DejaVu Serif"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert r"ours \& best" in (tmp_path / "t.tex").read_text()
    assert "ours & best" in (tmp_path / "t.csv").read_text()
    drawn = list((tmp_path / "figures").iterdir())
    assert {path.suffix for path in drawn} == {".pdf"}
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", (tmp_path / "figures/pareto.pdf").read_bytes())
    assert float(box[1]) / 72 == pytest.approx(88 / 25.4, abs=0.02)
    assert "ours & best has the highest accuracy" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"formats": ["gif"]}, "--formats: gif"),
        ({"formats": []}, "--formats: none"),
        ({"column": Column(3.5, "No Such Font")}, "--font: 'No Such Font'"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(
    runs: Path, tmp_path: Path, given: dict, said: str
) -> None:
    folder = runs / "sflora"
    with pytest.raises(RunError, match=re.escape(said)):
        report(folder, out=tmp_path / "r.html", images=0, figures_folder=tmp_path / "f", **given)


@pytest.mark.parametrize("width", ["wide", "3.5", "-3in", "0.1in", "90in", "1e3mm"])
def test_a_width_that_is_none_is_one_sentence(
    runs: Path, width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["cutlayer", "report", str(runs), "--width", width])
    with pytest.raises(SystemExit):
        main()
    assert f"--width: '{width}'" in capsys.readouterr().err
