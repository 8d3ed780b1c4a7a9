"""A fleet may be far larger than its data: what it costs goes by who takes part."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cutlayer import report, simulate
from cutlayer.data.drawn import DrawnShares
from cutlayer.data.label_counts import LabelCounts
from cutlayer.data.partition import divide, partition
from cutlayer.errors import DataError
from cutlayer.settings.data import Partition
from helpers import equal, small_job

DRAWN = ("data.partition.kind=drawn", "data.partition.min_samples=1")


def test_a_share_is_found_without_those_of_the_others() -> None:
    labels = np.arange(50) % 3
    wish = Partition(kind="drawn", samples_per_device=7)
    shares = partition(labels, wish, 400_000, 3)
    again = partition(labels, wish, 500_000, 3)
    assert isinstance(shares, DrawnShares)
    assert len(shares) == 400_000
    for device in (0, 1, 399_999):
        assert shares[device].tolist() == again[device].tolist()
        assert len(shares[device]) == 7
    assert shares[0].tolist() != shares[1].tolist()
    counts = LabelCounts(labels, shares, 3)
    for device in (0, 5, 399_999):
        held = np.bincount(labels[shares[device]], minlength=3).tolist()
        assert counts.of([device])[0].tolist() == held
        assert device > 5 or counts.first(6)[device].tolist() == held
    # Uniform over the samples: 2.8 million draws in three classes of 17, 17 and 16 samples.
    assert counts.total / counts.samples == pytest.approx([0.34, 0.34, 0.32], abs=2e-3)
    assert counts.samples == 2_800_000 == counts.total.sum()
    counts.note(2, [0, 5, 0])
    assert counts.first(3)[2].tolist() == counts.of([2])[0].tolist() == [0, 5, 0]
    assert counts.samples == 2_799_998
    with pytest.raises(IndexError):
        shares[400_000]


def test_devices_that_draw_train_and_resume_alike(tmp_path: Path) -> None:
    settings = (*DRAWN, "data.partition.samples_per_device=9", "devices.count=100000")
    job = small_job(*settings, "devices.per_round=2", "training.rounds=1")
    one = simulate(job, out=tmp_path / "one")
    two = simulate(job, out=tmp_path / "two")
    assert equal(one.adapter, two.adapter)
    assert set(one.rows[0].samples_trained.values()) == {9}
    assert (tmp_path / "one" / "rounds.jsonl").stat().st_size < 10 * 100_000
    page = report(tmp_path / "one", out=tmp_path / "report.html").page
    assert "2 of 100000 devices were drawn at least once" in page.read_text()


MILLION = """
import re, sys
from pathlib import Path
from cutlayer import report, simulate
from cutlayer.dashboard.views import OpenRuns
from cutlayer.dashboard.watch import WatchedRuns
from helpers import small_job

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

def run(count):
    job = small_job(
        "data.partition.kind=drawn", "data.partition.min_samples=1", "training.rounds=1",
        "data.partition.samples_per_device=2", f"devices.count={count}", "devices.per_round=100",
        world={"mobility": {"kind": "redraw"}},
    )
    folder = Path(sys.argv[1]) / str(count)
    row = simulate(job, out=folder).rows[0]
    page = report(folder, out=folder / "page.html").page
    runs = WatchedRuns(folder.parent)
    runs.look()
    seen = [runs.find(folder.name)]
    opened = OpenRuns()
    assert len(opened.detail(seen)["views"]) + len(opened.computed(seen)["views"]) > 8
    return row, page.read_text()

run(1000)
before = peak()
row, page = run(1_000_000)
assert len(row.decisions) + len(row.left_out) == 100
assert "100 of 1000000 devices, those that were drawn, around the server" in page
assert "2,000,000 training samples on 1000000 devices; of the first 10,000 a device" in page
assert len(page) < 1_000_000
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_million_devices_take_less_than_200_mebibytes(tmp_path: Path) -> None:
    """A run in a world whose devices move, its report, and the dashboard."""
    done = subprocess.run(
        [sys.executable, "-c", MILLION, str(tmp_path)], capture_output=True, text=True, timeout=300,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 200


def test_devices_beyond_what_is_measured_have_no_test_samples_of_their_own() -> None:
    wish = Partition(kind="drawn", held_out=0.5)
    with pytest.raises(DataError, match="at most 10,000 devices that draw their samples"):
        divide(np.arange(50) % 3, wish, 10_001, 0)
