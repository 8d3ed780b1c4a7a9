"""New run folders: each one's own, and one sentence where none can be made."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cutlayer.errors import RunError
from cutlayer.record.writing import new_folder


def test_runs_that_begin_in_the_same_second_never_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: new_folder("sflora"), range(40)))
    assert len(set(made)) == 40
    assert all(folder.is_dir() for folder in made)


def test_where_no_folder_can_be_made_one_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").write_text("a file in the way")
    with pytest.raises(RunError, match="run folder: cannot write in runs"):
        new_folder("sflora")
