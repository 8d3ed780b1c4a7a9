"""The papers' tables: every cell is a job that can run, and a small one runs to its page."""

import importlib
import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cutlayer.errors import AllocationError
from cutlayer.job import load_job
from cutlayer.model.families import describe
from cutlayer.record.rows import Row
from cutlayer.train.check import check

FOLDER = Path(__file__).parent.parent / "publications"
PAPERS = sorted(path.parent.name for path in FOLDER.glob("*/table.yaml"))


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """publications/make_tables.py, which finds its other modules by itself."""
    before = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("make_tables")
    sys.path[:] = before


@pytest.fixture(scope="module")
def cells(script: ModuleType) -> ModuleType:
    """publications/table_runs.py."""
    return importlib.import_module("table_runs")


@pytest.mark.parametrize("paper", PAPERS)
def test_every_cell_of_a_papers_table_is_a_job_that_can_run(
    paper: str, script: ModuleType, cells: ModuleType
) -> None:
    table = script.read_table(paper)
    for column, figures in table.published.items():
        assert column in table.columns
        assert figures.keys() <= table.lines.keys()
    for ours, theirs in table.compare:
        assert {ours, theirs} <= table.lines.keys()
    # What is checked here is all but the model, which the hub has.
    words = [paper, "--seeds", "0"]
    words += [] if paper in ("asfl", "genfl") else ["--model", "demo"]
    tuned = script.parse([*words, "--rates", "0.5", "--held-out", "0.2"])
    for cell in (*cells.wanted(table, script.parse(words), {}), *cells.tried(table, tuned)):
        job = cells.job_of(table, cell)
        check(job, describe(job.model))
        if cell.rate is not None:
            assert (job.training.lr, job.data.partition.held_out) == (0.5, 0.2)
            assert job.data.test_samples is not None
            assert job.data.test_samples <= 10


@pytest.mark.parametrize("paper", PAPERS)
def test_a_folder_takes_the_place_of_the_data_of_every_column(
    paper: str, script: ModuleType, cells: ModuleType
) -> None:
    table = script.read_table(paper)
    names = {cells.data_of(table, column) for column in table.columns}
    words = [paper, "--seeds", "0", "--data", *(f"{name}=FOLDER" for name in names)]
    for cell in cells.wanted(table, script.parse(words), {}):
        data = cells.job_of(table, cell).data
        assert (data.source, data.path, data.label_column) == ("parquet", "FOLDER", "label")


def _png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (28, 28), value).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of one small cell, on images of its own."""
    folder = tmp_path_factory.mktemp("images")
    for name, samples in (("train", 60), ("test", 20)):
        images = [_png(value) for value in range(samples)]
        labels = [value % 4 for value in range(samples)]
        pq.write_table(pa.table({"image": images, "label": labels}), folder / f"{name}.parquet")
    small = ("devices.count=3", "devices.per_round=2", "training.rounds=1", "training.batch_size=8")
    words = ["make_tables.py", "tsflora", "--model", "demo", "--seeds", "0"]
    words += ["--columns", "CIFAR-100 Dirichlet 0.5", "--lines", "sflora-8-bits"]
    words += ["--data", f"uoft-cs/cifar100={folder}"]
    return [*words, "--set", *small, "model.lora.rank=4"]


def test_a_cell_is_trained_and_stands_on_the_page_beside_the_papers_figure(
    script: ModuleType,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = ["--runs", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*words, *here])
    script.main()
    page = capsys.readouterr().out
    (line,) = [line for line in page.splitlines() if line.startswith("| sflora-8-bits")]
    assert "90.0" in line  # the paper's 89.97
    assert "`training.rounds=1`" in page
    assert "the learning rate was not tuned" in page
    for folder in (words[words.index("--data") + 1].partition("=")[2], str(tmp_path)):
        assert folder not in page
    assert "## Lines against each other" not in page  # one line has none to be held against
    assert "Not asked for: seeds 1, 2." in page
    script.main()
    assert "seed 0" not in capsys.readouterr().out.split("#")[0]  # it was there already

    monkeypatch.setattr(sys, "argv", [*words, "training.lr=0.5", *here])
    with pytest.raises(SystemExit, match=r"--runs: .*sflora-8-bits-0 holds a run of another setti"):
        script.main()

    def nobody(*given: object, **named: object) -> None:
        raise AllocationError("no device can finish")

    monkeypatch.setattr(script, "simulate", nobody)
    monkeypatch.setattr(sys, "argv", [*words, *here, "--lines", "fedlora", "sflora-8-bits"])
    script.main()
    page = capsys.readouterr().out  # a cell that cannot be trained costs only itself
    assert "Dirichlet 0.5: fedlora, seed 0 (no device can finish)" in page
    assert "| sflora-8-bits" in page


def test_a_learning_rate_is_chosen_on_what_devices_hold_out(
    script: ModuleType,
    cells: ModuleType,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tuned = [*words, "--runs", str(tmp_path), "--held-out", "0.4"]
    better = {0.5: 0.3, 0.6: 0.4}
    read = cells.read_rows

    def told(folder: Path) -> list[Row]:
        """The run's rows, with an accuracy that says which rate is best."""
        (*before, last) = read(folder)
        rate = load_job(folder / "job.yaml").training.lr
        right = [better.get(rate, 0.2)] * len(last.held_out_samples)
        return [*before, replace(last, held_out_accuracy=right)]

    def chosen() -> set[float]:
        found = tmp_path.glob("CIFAR-100_Dirichlet_0.5-sflora-8-bits-0-*/job.yaml")
        return {load_job(path).training.lr for path in found}

    monkeypatch.setattr(cells, "read_rows", told)
    monkeypatch.setattr(sys, "argv", [*tuned, "--rates", "0.5"])
    script.main()
    page = capsys.readouterr().out
    assert "sflora-8-bits, seed 100, learning rate 0.5" in page
    assert "learning rate tried" not in page  # one rate has no other beside it
    assert chosen() == {0.5}

    monkeypatch.setattr(sys, "argv", [*tuned, "--rates", "0.5", "0.6"])
    script.main()  # a rate may be added
    page = capsys.readouterr().out
    assert "the best of 0.5, 0.6 by the exported adapter's accuracy on the" in page
    assert "with the largest (0.6) 1 of 1 line does" in page
    assert chosen() == {0.5, 0.6}

    monkeypatch.setattr(sys, "argv", [*tuned, "--rates", "0.8", "--held-out", "0.01"])
    with pytest.raises(SystemExit, match=r"--rates: .*devices hold out no sample: raise --he"):
        script.main()

    def nobody(*given: object, **named: object) -> None:
        raise AllocationError("no device can finish")

    monkeypatch.setattr(script, "simulate", nobody)
    monkeypatch.setattr(sys, "argv", [*tuned, "--rates", "0.5", "0.7"])
    script.main()  # one that could not be tried is named
    page = capsys.readouterr().out
    assert "sflora-8-bits at a learning rate of 0.7 (no device can finish)" in page
    monkeypatch.setattr(sys, "argv", [*tuned, "--rates", "0.5", "0.7", "--only-report"])
    script.main()  # and while it is still to be tried nothing is chosen
    page = capsys.readouterr().out
    assert "| sflora-8-bits" not in page
    assert "sflora-8-bits at a learning rate of 0.7" in page


@pytest.mark.parametrize(
    ("ours", "points"),
    [
        ({0: 0.5}, "+10.0 (one seed)"),
        ({0: 0.4}, "the same"),
        ({0: 0.5, 1: 0.7, 2: 0.6}, "+20.0 (-4.8 to +44.8, not told from 0)"),
        ({0: 0.5, 1: 0.51, 2: 0.5}, "+10.3 (+8.9 to +11.8)"),
    ],
)
def test_lines_are_held_against_each_other_beside_the_papers_difference(
    script: ModuleType, ours: dict[int, float], points: str
) -> None:
    def line(label: str, accuracy: dict[int, float], size: float) -> dict[str, object]:
        sizes = {seed: size * (seed + 1) for seed in accuracy}
        return {"line": label, "A IID": [], "A IID by seed": accuracy, "A IID bytes": sizes}

    lines = [line("ours", ours, 5.0), line("theirs", dict.fromkeys(range(3), 0.4), 20.0)]
    pairs = [["ours", "theirs"], ["ours", "not trained"]]

    def page(published: dict[str, dict[str, float]]) -> str:
        return "\n".join(
            importlib.import_module("differences").differences(lines, ["A IID"], pairs, published)
        )

    said = page({"A IID": {"ours": 50.0, "theirs": 52.0}})
    assert "not trained" not in said
    (row,) = [row for row in said.splitlines() if row.startswith("| ours for theirs")]
    assert f"| {points}" in row
    assert "| -2.0 " in row
    assert "| 0.25 " in row
    figures = {"ours": 1.0, "theirs": 2.0}
    elsewhere = {"B IID": figures, "C skewed": figures, "D IID": {"ours": 5.0, "theirs": 2.0}}
    assert "| -1.0 (B), +3.0 (D) " in page(elsewhere)
    assert "The paper's" not in page({"C skewed": figures})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--lines", "fedavq"], "--lines: 'fedavq' is not in the table: take of fedavg"),
        (["--data", "cifar10=FOLDER"], "--data: 'cifar10' is not in the table: take of uoft-cs/"),
        (["--rates", "1", "--seeds", "100"], "--seeds: learning rates are tried with 100: take an"),
        (["--rates", "1", "--set", "training.lr=1"], "--set: training.lr is set by --rates and -"),
    ],
)
def test_a_name_that_is_not_in_the_table_is_refused_in_a_sentence(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, options: list[str], sentence: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_tables.py", "sflam", *options, "--list"])
    with pytest.raises(SystemExit, match=sentence):
        script.main()
