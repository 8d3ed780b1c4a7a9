"""A fleet may be far larger than its data: what it costs goes by who takes part."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cutlayer import report, simulate
from cutlayer.data.drawn import DrawnShares
from cutlayer.data.partition import label_counts, partition
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
    counts = label_counts(labels, shares, 3)
    for device in (0, 5, 399_999):
        assert counts[device].tolist() == np.bincount(labels[shares[device]], minlength=3).tolist()
    # Uniform over the samples: 2.8 million draws in three classes of 17, 17 and 16 samples.
    assert counts.sum(axis=0) / counts.sum() == pytest.approx([0.34, 0.34, 0.32], abs=2e-3)
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
import re, time
from cutlayer.simulation.local_fleet import LocalFleet
from cutlayer.train.cohort import draw_cohort
from cutlayer.train.parts import load_parts
from helpers import small_job

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

drawn = ("data.partition.kind=drawn", "data.partition.min_samples=1")
def start(count):
    job = small_job(*drawn, f"devices.count={count}", "devices.per_round=100")
    LocalFleet(job, load_parts(job))
    return draw_cohort(job, 0)

start(100)
before = peak()
assert len(start(1_000_000)) == 100
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_million_devices_take_less_than_200_mebibytes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MILLION], capture_output=True, text=True, check=True, timeout=300,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    assert float(done.stdout) < 200
