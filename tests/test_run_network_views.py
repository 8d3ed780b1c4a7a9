"""Views of a network run show what its devices have and are called, or nothing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutlayer.errors import RunError
from cutlayer.job import Job
from cutlayer.record.folder import DEVICES_FILE
from cutlayer.record.told_devices import ToldDevice, read_told, write_told
from cutlayer.reports.page import views_of
from cutlayer.reports.read_runs import read_run
from cutlayer.reports.recompute import again
from cutlayer.reports.views.runs import Run
from cutlayer.train.parts import load_parts
from fleet_helpers import crowd, served
from helpers import small_job


@pytest.fixture(scope="module")
def own_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of two of the demo's classes, as a camera's own data."""
    folder = tmp_path_factory.mktemp("own")
    for name in load_parts(small_job()).train.classes[1:3]:
        (folder / name).mkdir()
        for number in range(3):
            picture = np.random.default_rng(number).integers(0, 255, (28, 28), dtype=np.uint8)
            Image.fromarray(picture).save(folder / name / f"{number}.png")
    return folder


def run_of(job: Job, folder: Path, own: dict[str, Path | None]) -> Run:
    """A finished run of devices by name, some with data of their own, as a report computes it."""
    with crowd() as devices:

        def bring(port: int) -> None:
            for number, (name, data) in enumerate(own.items()):
                devices.join(port, number, name, data=data)

        served(job, folder, bring)
    assert devices.errors == {}
    return again(read_run(folder, print), 0, 1)


def test_devices_with_data_of_their_own_show_no_labels_of_the_servers_folder(
    tmp_path: Path, own_images: Path
) -> None:
    job = small_job("devices.count=2", "training.rounds=1")
    run = run_of(job, tmp_path / "net", {"cam-0000": None, "cam-0001": own_images})
    assert not (tmp_path / "net" / "figures" / "labels.png").exists()
    views = {view["id"]: view for view in views_of(run)}
    assert "the 1 of 2 devices that share their labels" in views["labels"]["text"]
    assert views["labels"]["data"]["samples"][1] == 0
    for view in ("labels", "devices", "allocation"):
        assert views[view]["data"]["names"] == ["cam-0000", "cam-0001"]
    told = read_told(tmp_path / "net", 2)
    assert told[1].samples == 6
    assert told[1].labels is None

    write_told(tmp_path / "net", {1: ToldDevice("cam-0001", 6, None)})
    recomputed = again(read_run(tmp_path / "net", print), 0, 1)
    (shown,) = [view for view in views_of(recomputed) if view["id"] == "labels"]
    assert shown["kind"] == "missing"
    assert "the devices have data of their own" in shown["text"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"0": {"name": "a", "samples": 1}}',
        '{"7": {"name": "a", "samples": 1, "labels": null}}',
        '{"0": {"name": "a", "samples": 1, "labels": [1, -2]}}',
        '{"0": {"name": "a", "samples": 1, "labels": [1]}}',
    ],
)
def test_a_damaged_file_of_what_devices_told_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / DEVICES_FILE).write_text(text)
    with pytest.raises(RunError, match="is damaged: delete it"):
        read_told(tmp_path, 2, 2)
