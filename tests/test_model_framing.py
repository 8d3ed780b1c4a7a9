"""Images are resized once, as the checkpoint's preprocessor says or as the job says otherwise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cutlayer.data import images
from cutlayer.errors import ModelError
from cutlayer.model.families import describe
from cutlayer.model.framing import checkpoint_fit, fit_for, preprocessor_at
from cutlayer.model.inputs import Preprocessor
from cutlayer.resize import Fit
from cutlayer.settings.model import Model

DINO = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 256},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
}


def checkpoint(folder: Path, preprocessor: dict[str, Any] | None, **config: Any) -> str:
    """A ViT's configurations, without weights."""
    folder.mkdir(exist_ok=True)
    values = {"model_type": "vit", "image_size": 32, "patch_size": 8, "hidden_size": 16, **config}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return str(folder)


@pytest.mark.parametrize(
    ("config", "fit"),
    [
        (DINO, Fit(224, 256, True, "bicubic")),
        ({"size": {"height": 384, "width": 384}, "resample": 2}, Fit(384, 384)),
        ({"size": 224, "image_processor_type": "ViTFeatureExtractor"}, Fit(224, 224)),
        (
            {"size": 256, "crop_size": 224, "feature_extractor_type": "DeiTFeatureExtractor"},
            Fit(224, 256),
        ),
        (
            {"size": 224, "crop_size": 224, "feature_extractor_type": "CLIPFeatureExtractor"},
            Fit(224, 224, True),
        ),
        (
            {"size": 224, "crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor"},
            Fit(224, 256, True),
        ),
        ({"size": {"shortest_edge": 30}}, Fit(30, 30, True)),
        ({"do_resize": False, "size": 224}, None),
        ({"image_mean": [0.5]}, None),
        (None, None),
    ],
)
def test_every_form_of_a_preprocessors_size_is_understood(
    tmp_path: Path, config: dict[str, Any] | None, fit: Fit | None
) -> None:
    assert checkpoint_fit(checkpoint(tmp_path, config)) == fit
    if fit is not None and config is not None:
        again = preprocessor_at(config, fit.at(fit.side // 2))
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(again))
        assert checkpoint_fit(str(tmp_path)) == fit.at(fit.side // 2)


@pytest.mark.parametrize(
    "size", [{"height": 224, "width": 112}, {"longest_edge": 224}, {"shortest_edge": "x"}]
)
def test_a_preprocessor_without_squares_is_refused_by_name(tmp_path: Path, size: Any) -> None:
    with pytest.raises(ModelError, match=r"preprocessor_config\.json of .* no square images"):
        describe(Model(path=checkpoint(tmp_path, {"size": size})))


def test_the_image_size_is_what_the_preprocessor_makes(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, DINO, image_size=518, patch_size=14, model_type="dinov2")
    assert describe(Model(path=path)).tokens == 257
    assert describe(Model(path=path, image_size=98)).tokens == 50
    assert fit_for(describe(Model(path=path, image_size=98))) == Fit(98, 112, True, "bicubic")


def test_the_job_may_say_otherwise(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, {**DINO, "size": {"shortest_edge": 40}, "crop_size": 32})
    fits = {a: fit_for(describe(Model(path=path, aspect=a))) for a in ("crop", "stretch")}  # type: ignore[arg-type]
    assert fits == {"crop": Fit(32, 32, True, "bicubic"), "stretch": Fit(32, 32, False, "bicubic")}
    assert fit_for(describe(Model(path=checkpoint(tmp_path, None)))) == Fit(32, 32)


@pytest.mark.parametrize("shape", [(61, 97), (97, 61), (20, 31), (32, 32), (40, 40)])
def test_images_held_or_read_are_those_of_transformers(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    from transformers import BitImageProcessorPil

    values = {**DINO, "size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    path = checkpoint(tmp_path, {**values, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    rough = np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)
    photo = Image.fromarray(rough).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "a.png")
    expected = BitImageProcessorPil.from_pretrained(path)(photo, return_tensors="pt")
    prepare = Preprocessor(describe(Model(path=path)))
    assert prepare.fit is not None
    item = ("a", lambda: tmp_path / "a.png")
    held = images.stack([item], images.held_size([images.look([item])], prepare.fit), False)
    found = prepare(held)["pixel_values"]
    assert found.shape == (1, 3, 32, 32)
    # Pillow rounds to whole levels after each of its two passes.
    assert (found - expected["pixel_values"]).abs().max() <= 3 / 127.5
    assert (found - expected["pixel_values"]).abs().mean() <= 0.6 / 127.5
    assert torch.equal(prepare(held)["pixel_values"], found)
