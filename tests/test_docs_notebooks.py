"""The notebooks of the docs run as they stand, and were kept as they ran."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
QUICK = {"plan-a-spectrum"}
"""Those that take seconds: the others train, and are run by name."""
MOST_BYTES = 100_000


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_what_it_printed_and_names_no_machine(path: Path) -> None:
    text = path.read_text()
    notebook = json.loads(text)
    assert [cell["execution_count"] for cell in code_cells(notebook)] == list(
        range(1, len(code_cells(notebook)) + 1)
    )
    printed = [one for cell in code_cells(notebook) for one in cell["outputs"]]
    assert printed
    assert not any(one["output_type"] == "error" or one.get("name") == "stderr" for one in printed)
    assert "site-packages" not in text
    assert len(text) < MOST_BYTES


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem in QUICK else pytest.mark.slow)
        for path in NOTEBOOKS
    ],
)
def test_a_notebook_runs_and_prints_where_it_did(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spec = importlib.util.spec_from_file_location("run", ROOT / "scripts" / "run_notebooks.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (tmp_path / "work").mkdir()
    ran = code_cells(script.executed(path, tmp_path / "work"))
    assert [cell["execution_count"] for cell in ran] == list(range(1, len(ran) + 1))
    kept = code_cells(json.loads(path.read_text()))
    assert [bool(cell["outputs"]) for cell in ran] == [bool(cell["outputs"]) for cell in kept]
