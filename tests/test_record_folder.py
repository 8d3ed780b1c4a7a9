"""New run folders: each one's own, and one sentence where none can be made."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cutlayer.errors import RunError
from cutlayer.record.folder import JOB_FILE, ROSTER_FILE
from cutlayer.record.writing import new_folder, writing


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


@pytest.mark.parametrize(
    ("files", "remedy"),
    [
        ([], "free some space, or give another folder with --out"),
        ([JOB_FILE], "continue with cutlayer simulate --resume"),
        ([JOB_FILE, ROSTER_FILE], "continue with cutlayer serve --resume"),
    ],
)
def test_a_full_disk_is_told_with_a_remedy_that_fits_the_folder(
    tmp_path: Path, files: list[str], remedy: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(RunError, match=f"the disk of .* is full: .*{remedy}"), writing(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
