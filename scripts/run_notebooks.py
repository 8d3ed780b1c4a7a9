"""Run the notebooks of docs/notebooks and keep what they print, without warnings.

    python scripts/run_notebooks.py

Each runs in an empty folder, so that what it writes is not kept.
"""

import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"


def executed(path: Path, folder: Path) -> Any:
    """The notebook at `path` with new outputs, run in `folder`. Raises CellExecutionError."""
    notebook = nbformat.read(path, as_version=4)
    kept = {key: notebook.metadata[key] for key in ("kernelspec",)}
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, resources=place, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    notebook.metadata = kept  # the rest names this machine's Python
    return notebook


def main() -> None:
    """Run all, and write each back."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(path, Path(folder)), path)


if __name__ == "__main__":
    main()
