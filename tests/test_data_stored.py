"""Images that are decoded when they are needed are those that are decoded ahead."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cutlayer import simulate
from cutlayer.data.dataset import joined_inputs
from cutlayer.data.device_data import load_folder
from cutlayer.data.sources import load
from cutlayer.data.spool import Spool
from cutlayer.data.stored_images import StoredImages
from cutlayer.errors import DataError
from cutlayer.job import change_job
from cutlayer.resize import Fit
from cutlayer.settings.data import Data
from helpers import equal, small_job

FIT = Fit(side=24, edge=28, keep_aspect=True)


def write_images(folder: Path, each: int = 6) -> Path:
    """Two classes of pictures of many sizes, some of them grey, some turned by EXIF."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(each):
            height, width = rng.integers(20, 60, 2)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels if number % 3 else pixels[..., 0])
            exif = Image.Exif()
            exif[0x0112] = 6 if number == 1 else 1
            picture.save(folder / label / f"{number}.png", exif=exif)
    return folder


def write_parquet(path: Path, folder: Path) -> Path:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    files = sorted(folder.rglob("*.png"))
    cells = [{"bytes": file.read_bytes(), "path": None} for file in files]
    labels = [file.parent.name for file in files]
    parquet.write_table(arrow.table({"image": cells, "label": labels}), path, row_group_size=5)
    return path


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_they_are_the_images_that_are_decoded_ahead(kind: str, tmp_path: Path) -> None:
    path = write_images(tmp_path / "images")
    if kind == "parquet":
        path = write_parquet(tmp_path / "images.parquet", path)
    data = Data(source=kind, path=str(path))  # type: ignore[arg-type]
    ahead, _ = load(data, 0, FIT)
    needed, test = load(data.model_copy(update={"memory_bytes": 0}), 0, FIT)
    assert isinstance(needed.pool, StoredImages)
    assert isinstance(test.pool, StoredImages)
    assert needed.pool.shape == ahead.pool.shape == (len(ahead), 3, 24, 24)  # type: ignore[union-attr]
    assert torch.equal(needed.inputs, ahead.inputs)  # type: ignore[arg-type]
    rows = np.array([3, 0, 3, 5])
    part, other = needed.subset(rows), ahead.subset(rows)
    needed.expect(np.array([0, 7, 3, 3]))
    assert torch.equal(part.inputs, other.inputs)  # type: ignore[arg-type]
    assert torch.equal(part.subset([1, 2]).inputs, other.subset([1, 2]).inputs)  # type: ignore[arg-type]
    assert part.subset([]).inputs.shape == (0, 3, 24, 24)  # type: ignore[union-attr]
    for held in (needed, ahead):
        shares = [held.subset(rows), held.subset([]), held.subset([1, 3])]
        each = torch.cat([share.inputs for share in shares])  # type: ignore[misc]
        assert torch.equal(joined_inputs(shares), each)  # type: ignore[arg-type]
        mixed = [held, held.subset([1, 3])]
        assert torch.equal(joined_inputs(mixed)[-2:], each[-2:])  # type: ignore[arg-type, index]
    needed.dismiss()
    assert needed.modality == "image"
    assert needed.image_shape == (3, 24, 24)
    assert "images of" in " ".join(needed.report.notes)  # type: ignore[union-attr]


def test_training_on_them_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    path = write_images(tmp_path / "images", each=20)
    job = small_job(
        "data.source=folder", f"data.path={path}", "data.train_samples=null",
        "data.test_samples=null", "data.partition.min_samples=2", "training.batch_size=4",
        "training.rounds=1", "training.image_augmentation=[flip]", "devices.count=2",
    )  # fmt: skip
    ahead = simulate(job, out=tmp_path / "ahead")
    needed = simulate(change_job(job, ["data.memory_bytes=0"]), out=tmp_path / "needed")
    assert equal(ahead.adapter, needed.adapter)
    assert ahead.accuracy == needed.accuracy
    own = load_folder(path, change_job(job, ["data.memory_bytes=0"]), ("cat", "dog"), FIT)
    assert isinstance(own.pool, StoredImages)


def test_what_is_no_image_is_named_when_it_is_needed(tmp_path: Path) -> None:
    path = write_images(tmp_path / "images")
    whole = (path / "cat" / "2.png").read_bytes()
    (path / "cat" / "2.png").write_bytes(whole[: len(whole) // 2])
    data = Data(source="folder", path=str(path), test_path=str(path), memory_bytes=0)
    train, _ = load(data, 0, FIT)
    assert len(train.subset([0, 1]).inputs) == 2
    with pytest.raises(DataError, match=r"2\.png is an image that cannot be decoded"):
        _ = train.inputs
    (path / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png, which does not exist"):
        _ = train.subset([0]).inputs


def test_a_column_lies_in_a_file_and_not_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    values = [
        b"abc",
        {"bytes": b"", "path": "a.png"},
        {"bytes": b"x", "path": "b"},
        "c.png",
        None,
        3,
    ]
    spool = Spool(iter(values))
    assert [spool[i] for i in (5, 4, 3, 2, 1, 0)] == [None, None, "c.png", b"x", "a.png", b"abc"]
    assert len(spool) == 6
    del spool
    gc.collect()
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(DataError, match=r"cannot be written to .*: set CUTLAYER_CACHE"):
        Spool(values)
