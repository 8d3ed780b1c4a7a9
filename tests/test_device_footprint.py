"""What a device of a real network takes: memory at its peak, and packages."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("grpc")

import pyarrow.parquet
from PIL import Image

from cutlayer.job import Job, make_job
from fleet_helpers import served
from helpers import small_job

PROGRAM = """
import atexit, sys
from cutlayer.cli import main

def tell(path=sys.argv[1]):
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    open(path, "w").write(" ".join([peak.split()[1], *sys.modules]))

atexit.register(tell)
sys.argv = ["cutlayer", "join", *sys.argv[2:]]
main()
"""
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs /proc, where Linux tells a process's peak"
)
LEFT_OUT = {
    "cvxpy",
    "datasets",
    "diffusers",
    "matplotlib",
    "pandas",
    "prometheus_client",
    "pyarrow",
}


def attended(job: Job, data: Path, folder: Path) -> tuple[int, set[str]]:
    """Train `job` with one device, a process of its own: its peak in bytes and its modules."""
    started: list[subprocess.Popen[bytes]] = []
    told = folder / "told"

    def start(port: int) -> None:
        words = [f"127.0.0.1:{port}", "--data", str(data), "--name", "device-0000"]
        environment = {**os.environ, "CUTLAYER_CACHE": str(folder), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", PROGRAM, str(told), *words]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))

    found = served(job, folder / "run", start)
    assert not found.rows[-1].lost
    assert started[0].wait(60) == 0
    peak_kib, *modules = told.read_text().split()
    return int(peak_kib) * 1024, set(modules)


def test_a_device_loads_nothing_that_only_servers_need(tmp_path: Path) -> None:
    for label in ("Bag", "Dress"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(8):
            Image.new("L", (28, 28), 9 * number).save(tmp_path / "images" / label / f"{number}.png")
    job = small_job("devices.count=1", "training.rounds=1", method="tsflora")
    _, modules = attended(job, tmp_path / "images", tmp_path)
    assert not modules & LEFT_OUT


@pytest.mark.slow
def test_a_device_at_cut_2_of_dinov2_small_peaks_below_600_mb(
    shared_models: Path, shared_data: Path, tmp_path: Path
) -> None:
    test = pyarrow.parquet.read_table(shared_data / "cifar10" / "test.parquet").slice(0, 32)
    names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    for number, row in enumerate(test.to_pylist()):
        folder = tmp_path / "images" / names[row["label"]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(io.BytesIO(row["image"]["bytes"])).save(folder / f"{number}.png")
    job = make_job(
        {
            "model": {"path": str(shared_models / "dinov2-small"), "image_size": 98, "cut": 2},
            "data": {
                "source": "parquet",
                "path": str(shared_data / "cifar10"),
                "input_column": "image",
                "train_samples": 20,
                "test_samples": 10,
            },
            "devices": {"count": 1},
            "method": "sflora",
            "training": {"rounds": 2, "batch_size": 16},
        }
    )
    peak_bytes, _ = attended(job, tmp_path / "images", tmp_path)
    assert peak_bytes < 600e6
