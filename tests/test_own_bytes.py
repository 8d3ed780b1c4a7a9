"""The yardstick beside what crosses a cut: what the samples themselves would take."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from PIL import Image

from cutlayer.data.dataset import Dataset
from cutlayer.data.own_bytes import own_bytes
from cutlayer.record.data_file import own_bytes_of
from cutlayer.reports.views import comparison
from cutlayer.reports.views.runs import Run, lines_of
from cutlayer.resize import Fit
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
