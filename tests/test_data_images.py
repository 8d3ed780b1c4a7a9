"""Images are read as a viewer shows them, the same through every source, and held small."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageCms

from cutlayer.data import images
from cutlayer.data.dataset import Dataset
from cutlayer.data.device_data import load_folder
from cutlayer.data.sources import load
from cutlayer.errors import DataError
from cutlayer.job import Job
from cutlayer.resize import Fit
from cutlayer.settings.data import Data

WHITE = [255, 255, 255]


def middle(path: Path) -> list[int]:
    """The pixel in the middle, as RGB."""
    pixels = images.stack([(path.name, lambda: path)], (8, 8), False)
    return pixels[0, :, 4, 4].tolist()


def of_colour(colour: object, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (8, 8), colour)  # type: ignore[arg-type]


def of_levels(value: float, dtype: type) -> Image.Image:
    return Image.fromarray(np.full((8, 8), value, dtype))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8], upright[:, :8] = 120, 240
    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    turns |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    image, exif = Image.fromarray(upright), Image.Exif()
    if orientation > 1:
        image = image.transpose(getattr(Image.Transpose, turns[orientation]))
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    image.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    assert images.look([("a", lambda: path)]).sizes.tolist() == [[16, 32]]
    found = images.stack([("a", lambda: path)], (16, 32), False)[0].permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - upright).mean() < (6 if suffix == "jpg" else 1)


def test_sixteen_bits_with_an_orientation_are_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    levels = np.zeros((8, 16), np.uint16)
    levels[:4] = 65535
    Image.fromarray(levels).save(tmp_path / "a.png", exif=exif)
    found = images.stack([("a", lambda: tmp_path / "a.png")], (16, 8), True)
    assert found[0, 0, :, 0].unique().tolist() == [0]
    assert found[0, 0, :, -1].unique().tolist() == [255]


def test_transparency_is_shown_on_white(tmp_path: Path) -> None:
    clear = of_colour((255, 0, 0, 0), "RGBA")
    saved = {
        "rgba.png": (clear, {}),
        "rgba.webp": (clear, {"lossless": True}),
        "palette.png": (clear.quantize(), {}),
        "grey.png": (of_colour((0, 0), "LA"), {}),
        "key.png": (of_colour((10, 20, 30)), {"transparency": (10, 20, 30)}),
        "grey-key.png": (of_colour(40, "L"), {"transparency": 40}),
        "deep-key.png": (of_levels(100, np.uint16), {"transparency": 100}),
    }
    for name, (image, options) in saved.items():
        image.save(tmp_path / name, **options)
    assert {name: middle(tmp_path / name) for name in saved} == dict.fromkeys(saved, WHITE)
    of_colour((255, 0, 0, 128), "RGBA").save(tmp_path / "half.png")
    assert middle(tmp_path / "half.png") == [255, 127, 127]


@pytest.mark.parametrize(
    ("value", "dtype", "shown"),
    [
        (0x8000, np.uint16, 128),  # of all 16 bits
        (4095, np.uint16, 255),  # the most that 12 bits hold
        (2048, np.uint16, 128),
        (200, np.uint16, 200),  # 8 bits in a file of 16
        (0.5, np.float32, 255),
        (200.0, np.float32, 200),
    ],
)
def test_deep_levels_are_scaled_by_the_range_of_the_data(
    tmp_path: Path, value: float, dtype: type, shown: int
) -> None:
    of_levels(value, dtype).save(tmp_path / "a.tiff")
    assert middle(tmp_path / "a.tiff") == [shown] * 3


def test_one_range_holds_for_all_images_of_a_load(tmp_path: Path) -> None:
    for label, top in (("dim", 1000), ("bright", 4000)):
        (tmp_path / label).mkdir()
        for i in range(5):
            of_levels(top, np.uint16).save(tmp_path / label / f"{i}.png")
    train, _ = load(Data(source="folder", path=str(tmp_path)), 0)
    assert [train.inputs[i].max().item() for i in (0, -1)] == [249, 62]
    assert train.report is not None
    assert "levels 0 to 4095 taken as black to white" in train.report.line


def test_levels_that_are_no_numbers_or_lost_their_bits_are_refused(tmp_path: Path) -> None:
    of_levels(np.nan, np.float32).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=r"a\.tiff .*some of its levels are not numbers"):
        middle(tmp_path / "a.tiff")

    def chunk(kind: bytes, content: bytes) -> bytes:
        tail = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + tail

    for level in (4095, 65535):  # colours of 16 bits, of which Pillow decodes the upper eight
        rows = (b"\0" + struct.pack(">H", level) * 24) * 8
        (tmp_path / "b.png").write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b"")
        )
        if level == 65535:
            assert middle(tmp_path / "b.png") == WHITE
        else:
            with pytest.raises(DataError, match="uses fewer than 14"):
                middle(tmp_path / "b.png")


def test_colour_profiles_are_followed_and_bad_ones_said(tmp_path: Path) -> None:
    linear = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    of_colour((10, 100, 200)).save(tmp_path / "own.png", icc_profile=own)
    assert middle(tmp_path / "own.png") == [10, 100, 200]
    for label in ("a", "b"):
        (tmp_path / "d" / label).mkdir(parents=True)
        for i, profile in enumerate((linear, lab, b"no profile", own, own)):
            path = tmp_path / "d" / label / f"{i}.png"
            of_colour((10, 100, 200)).save(path, icc_profile=profile)
    train, _ = load(
        Data(source="folder", path=str(tmp_path / "d"), test_path=str(tmp_path / "d")), 0
    )
    assert train.report is not None
    assert "colour profiles that do not fit their images, passed over" in train.report.line


def test_cmyk_and_lab_become_colours(tmp_path: Path) -> None:
    of_colour((0, 255, 255, 0), "CMYK").save(tmp_path / "a.jpg")
    assert np.abs(np.array(middle(tmp_path / "a.jpg")) - (255, 0, 0)).max() < 8
    of_colour((128, 128, 128), "LAB").save(tmp_path / "b.tiff")
    assert np.ptp(middle(tmp_path / "b.tiff")) <= 2


def test_a_photo_is_the_same_through_every_source(tmp_path: Path) -> None:
    exif, rows = Image.Exif(), []
    exif[0x0112] = 6
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(2):
            noise = np.random.default_rng(i).integers(0, 255, (9, 12, 4), np.uint8)
            stream = io.BytesIO()
            Image.fromarray(noise).save(stream, "PNG", exif=exif)
            (tmp_path / "photos" / label / f"{i}.png").write_bytes(stream.getvalue())
            rows.append((f"photos/{label}/{i}.png", stream.getvalue(), label))
    paths, contents, labels = zip(*rows, strict=True)
    pq.write_table(pa.table({"image": contents, "label": labels}), tmp_path / "a.parquet")
    lines = "".join(f"{path},{label}\n" for path, label in zip(paths, labels, strict=True))
    (tmp_path / "a.csv").write_text("file_name,label\n" + lines)
    fit = Fit(8, 9, True)
    sources = {"folder": "photos", "parquet": "a.parquet", "table": "a.csv"}
    found = {}
    for source, name in sources.items():
        path = str(tmp_path / name)
        found[source] = load(Data(source=source, path=path, test_path=path), 0, fit)[0].inputs  # type: ignore[arg-type]
        own = load_folder(tmp_path / name, Job(), ("a", "b"), fit)
        assert torch.equal(own.inputs, found[source])  # type: ignore[arg-type]
    pytest.importorskip("datasets", reason="needs the extra cutlayer[datasets]")
    path = str(tmp_path / "photos")
    found["hub"] = load(Data(source="hub", path=path, test_path="train"), 0, fit)[0].inputs
    first = found.pop("folder")
    assert first.shape == (4, 3, 8, 8)
    assert all(torch.equal(first, other) for other in found.values())  # type: ignore[arg-type]


def test_a_missing_image_of_a_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,label\nx.png,1\ny.png,0\n")
    path = str(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a\.csv, row 1, names the image .*x\.png, which does not"):
        load(Data(source="table", path=path, test_path=path), 0)


@pytest.mark.skipif(os.name != "posix", reason="links to folders need rights elsewhere")
def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "real" / label).mkdir(parents=True)
        for i in range(5):
            of_colour(9 * i, "L").save(tmp_path / "real" / label / f"{i}.png")
    linked = tmp_path / "linked"
    linked.mkdir()
    for label in ("a", "b"):
        (linked / label).symlink_to(tmp_path / "real" / label)
    (tmp_path / "real" / "a" / "loop").symlink_to(linked)
    train, _ = load(Data(source="folder", path=str(linked), test_path=str(linked)), 0)
    assert np.bincount(train.labels).tolist() == [5, 5]
    assert train.report is not None
    assert "not followed again" in train.report.line
    (linked / "c").symlink_to(tmp_path / "real" / "b")
    with pytest.raises(DataError, match=r"linked/c holds no images .*linked/c is .*linked/b once"):
        load(Data(source="folder", path=str(linked)), 0)
    (linked / "c").unlink()
    (linked / "a" / "gone.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"gone\.png is not a file, or is a broken link"):
        load(Data(source="folder", path=str(linked)), 0)


def test_leftovers_of_other_systems_are_passed_over_and_said(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "Thumbs.db").write_text("x")
        for i in range(5):
            of_colour(9 * i, "L").save(tmp_path / label / f"{i}.png")
    train, _ = load(Data(source="folder", path=str(tmp_path)), 0)
    assert train.report is not None
    assert "passed over: Thumbs.db" in train.report.line


def test_pixels_are_held_at_the_size_that_the_model_reads(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(5):
            Image.new("RGB", (60 + i, 40), (9 * i, 0, 0)).save(tmp_path / label / f"{i}.jpg")
    data = Data(source="folder", path=str(tmp_path))
    train, test = load(data, 0, Fit(16, 18, True))
    assert train.inputs.dtype == torch.uint8  # type: ignore[union-attr]
    assert train.inputs.shape[1:] == test.inputs.shape[1:] == (3, 16, 16)  # type: ignore[union-attr]
    # Images of one size with fewer pixels than the model reads stay as they are.
    small = load(Data(train_samples=10, test_samples=10), 0, Fit(224, 256, True))[0]
    assert small.inputs.shape == (10, 1, 28, 28)  # type: ignore[union-attr]


def test_parts_of_a_data_set_hold_indices_and_no_pixels() -> None:
    pool = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1)
    whole = Dataset(pool, np.arange(20) % 2, ("a", "b"))
    part = whole.subset([5, 3, 11]).subset([2, 0])
    assert part.pool is pool
    assert part.inputs.flatten().tolist() == [11, 5]  # type: ignore[union-attr]
    assert part.labels.tolist() == [1, 1]
