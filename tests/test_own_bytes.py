"""The yardstick beside what crosses a cut: what the samples themselves would take."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zstandard
from PIL import Image

from cutlayer.data.dataset import Dataset
from cutlayer.data.own_bytes import own_bytes, training_bytes
from cutlayer.data.sources import load
from cutlayer.job import change_job
from cutlayer.model.families import describe
from cutlayer.planning.plan_samples import own_bytes_sentence
from cutlayer.record.data_file import own_bytes_of
from cutlayer.reports.views import comparison
from cutlayer.reports.views.runs import Run, lines_of
from cutlayer.reports.views.summary import headline
from cutlayer.resize import Fit
from cutlayer.settings.data import Data
from helpers import small_job
from report_runs import made_job, made_rows


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_counted_as_files_at_the_models_size(channels: int) -> None:
    pixels = torch.randint(0, 255, (1, channels, 20, 20), dtype=torch.uint8).repeat(5, 1, 1, 1)
    data = Dataset(pixels, np.zeros(5, np.int64), ("a",))
    out = io.BytesIO()
    image = pixels[0].permute(1, 2, 0).numpy()
    Image.fromarray(image[..., 0] if channels == 1 else image).save(out, "jpeg", quality=75)
    assert own_bytes(data, Fit(20, 20))["jpeg"] == 5 * out.tell()
    assert own_bytes(data, Fit(80, 80))["webp"] > own_bytes(data, Fit(20, 20))["webp"]


def test_texts_are_counted_together_under_zstandard() -> None:
    texts = [f"text number {number} of some: ä" for number in range(50)]
    found = own_bytes(Dataset(texts, np.zeros(50, np.int64), ("a",)), None)
    assert found.keys() == {"zstd"}
    whole = "\n".join(texts).encode()
    assert found["zstd"] == len(zstandard.ZstdCompressor(level=19).compress(whole)) < len(whole)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[",
        "[1]",
        '{"own_bytes": 3}',
        '{"own_bytes": {"jpeg": "much", "webp": -1, "zstd": 1e9}}',
    ],
)
def test_a_file_that_tells_nonsense_tells_nothing(tmp_path: Path, said: str) -> None:
    assert own_bytes_of(tmp_path) == {}
    (tmp_path / "data.json").write_text(said)
    assert own_bytes_of(tmp_path) == {}


def test_a_report_shows_bytes_beside_those_of_the_samples(tmp_path: Path) -> None:
    job = made_job()
    (tmp_path / "data.json").write_text(json.dumps({"own_bytes": {"jpeg": 600_000}}))
    run = Run(tmp_path, job, made_rows(job), own_bytes=own_bytes_of(tmp_path))
    view = comparison.table(lines_of([run]))
    assert view["data"]["rows"][0]["jpeg"]["mean"] == pytest.approx(5)  # 3 MB in three rounds
    assert any("sent themselves once" in note for note in view["data"]["notes"])
    assert "webp" not in view["data"]["rows"][0]
    (figure,) = [
        one for one in headline(run)["data"]["figures"] if one["name"] == "the samples themselves"
    ]
    assert figure == {
        "name": "the samples themselves",
        "value": "0.600 MB",
        "note": "as JPEG, once; the run took 5.00 x",
    }


@pytest.mark.parametrize("in_files", [True, False])
def test_images_are_counted_as_the_files_that_they_came_in(tmp_path: Path, in_files: bool) -> None:
    sizes, rows = [], []
    for number in range(70):
        out = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 255, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(out, "png")
        sizes.append(len(out.getvalue()))
        if in_files:
            file = tmp_path / "ab"[number % 2] / f"{number}.png"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(out.getvalue())
        rows.append({"image": {"bytes": out.getvalue(), "path": None}, "label": number % 2})
    if not in_files:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    source = "folder" if in_files else "parquet"
    data = Data(source=source, path=str(tmp_path), train_samples=40)
    train, _ = load(data, 0)
    found = own_bytes(train, None)
    assert found["stored"] == pytest.approx(40 / 70 * sum(sizes), rel=0.05)
    assert training_bytes(data, 0, None) == found


def test_pixels_that_came_in_no_file_have_no_stored_size() -> None:
    train, _ = load(Data(train_samples=100), 0)
    assert own_bytes(train, None).keys() == {"jpeg", "webp"}
    some = training_bytes(Data(train_samples=100), 0, None)
    assert some == pytest.approx(own_bytes(train, None), rel=1e-3)


def test_a_plan_says_what_the_samples_themselves_would_take(tmp_path: Path) -> None:
    job = small_job()
    said = own_bytes_sentence(job, describe(job.model))
    assert said is not None
    assert said.startswith("the training samples themselves, sent once: 0.")
    assert said.endswith("MB as WebP")
    away = change_job(job, ["data.source=folder", f"data.path={tmp_path / 'none'}"])
    assert own_bytes_sentence(away, describe(job.model)) is None
