"""Light devices in a network run: the frames and the end of torch devices, in one fleet."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from PIL import Image

from cutlayer.job import Job
from cutlayer.rounds.result import Result
from fleet_helpers import crowd, served
from helpers import largest_difference, small_job

NAMES = ("Bag", "Dress")
SAMPLES = 12


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Exporting takes seconds: one cache for all tests of this module."""
    patch = pytest.MonkeyPatch()
    patch.setenv("CUTLAYER_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of four devices."""
    rng = np.random.default_rng(0)
    found = []
    for device in range(4):
        folder = tmp_path_factory.mktemp(f"device{device}")
        for name in NAMES:
            (folder / name).mkdir()
            for number in range(SAMPLES // 2):
                pixels = rng.integers(0, 256, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{number}.png")
        found.append(folder)
    return found


def run(job: Job, out: Path, folders: list[Path], light: tuple[int, ...]) -> Result:
    with crowd() as devices:

        def bring(port: int) -> None:
            for number, folder in enumerate(folders):
                devices.join(port, number, data=folder, light=number in light)

        found = served(job, out, bring, virtual=True)
    assert devices.errors == {}
    assert not any(row.lost for row in found.rows)
    return found


@pytest.mark.parametrize("method", ["st-sflora", "auto", "lean", "st-sflora-full"])
def test_light_and_torch_devices_end_where_torch_devices_do(
    tmp_path: Path, folders: list[Path], method: str
) -> None:
    job = small_job("training.rounds=2", method=method, world={})
    torch = run(job, tmp_path / "torch", folders, ())
    both = run(job, tmp_path / "both", folders, (1, 2))
    assert largest_difference(torch.adapter, both.adapter) <= 1e-4
    for one, other in zip(torch.rows, both.rows, strict=True):
        assert one.decisions == other.decisions
        assert one.traffic == other.traffic
