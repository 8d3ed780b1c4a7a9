"""What auto is calibrated on is named, and is neither trained nor tested on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutlayer import compare, load_job
from cutlayer.data.dataset import Dataset
from cutlayer.data.sources import load, load_calibration
from cutlayer.errors import CutlayerError
from cutlayer.planning.calibration.calibrate import calibrate
from cutlayer.settings.data import Data
from cutlayer.train.parts import load_parts
from helpers import small_job


def pictures(data: Dataset) -> set[bytes]:
    return {image.numpy().tobytes() for image in data.inputs}


def test_what_calibrates_is_on_no_device_and_not_tested_on() -> None:
    job = small_job("data.train_samples=null", "data.test_samples=null", method="auto", world={})
    held_out = load_calibration(job.data, job.seed)
    train, test = load(job.data_in_use, job.seed)
    every, _ = load(job.data, job.seed)
    assert len(held_out) > 300
    assert len(train) + len(held_out) == len(every)
    assert pictures(held_out).isdisjoint(pictures(train))
    assert pictures(held_out).isdisjoint(pictures(test))
    assert pictures(held_out) <= pictures(every)
    assert set(held_out.labels) == set(train.labels)
    parts = load_parts(job)
    assert sum(len(share) for share in parts.shares) == len(train)


def test_seeds_and_parts_of_the_data_share_what_calibrates() -> None:
    whole = load_calibration(Data(), 0)
    part = load_calibration(Data(train_samples=50, calibration="held-out"), 7)
    assert pictures(whole) == pictures(part)


def test_data_of_its_own_calibrates_where_it_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for place, number in (("train", 8), ("own", 6)):
        for name in ("cat", "dog"):
            (tmp_path / place / name).mkdir(parents=True)
            for index in range(number):
                picture = rng.integers(0, 255, (28, 28), dtype=np.uint8)
                Image.fromarray(picture).save(tmp_path / place / name / f"{index}.png")
    own = f"calibration: {tmp_path / 'own'}"
    job = small_job(f"data={{source: folder, path: {tmp_path / 'train'}, {own}}}")
    assert len(load_calibration(job.data, 0)) == 12
    assert len(load(job.data, 0)[0]) + len(load(job.data, 0)[1]) == 16
    assert calibrate(job, cuts=[1], tokens=[None], bits=[8]).samples == 6
    with pytest.raises(CutlayerError, match=r"^data\.calibration='.*/gone' does not exist"):
        load_calibration(job.data.model_copy(update={"calibration": str(tmp_path / "gone")}), 0)
    few = small_job(f"data={{source: folder, path: {tmp_path / 'own'}}}")
    with pytest.raises(CutlayerError, match=r"data\.calibration"):
        calibrate(few)


def test_all_methods_of_a_comparison_with_auto_have_the_same_data(tmp_path: Path) -> None:
    job = small_job("training.rounds=1", world={})
    found = compare(job, methods=["sflora", "auto"], out=tmp_path / "both")
    for result in found.results:
        assert load_job(result.folder / "job.yaml").data.calibration == "held-out"
    text = (tmp_path / "both" / "comparison.md").read_text()
    assert "on samples that no device has" in " ".join(text.split())
