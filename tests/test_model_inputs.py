"""Samples become what the checkpoint was trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cutlayer.errors import ModelError
from cutlayer.model.families import describe
from cutlayer.model.inputs import Preprocessor
from tiny_models import CLASSES, settings, write

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "very"]


def _images(batch: int, channels: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, channels, size, size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def _preprocessor(path: Path, **more: object) -> Preprocessor:
    return Preprocessor(describe(settings(path, **more), CLASSES))  # type: ignore[arg-type]


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return write(tmp_path / "vit", "vit")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    path = write(tmp_path / "bert", "bert")
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return path


def test_pixels_are_normalised_by_the_familys_numbers(vit: Path, tmp_path: Path) -> None:
    images = _images(2, 3, 16)
    found = _preprocessor(vit)(images)["pixel_values"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (images / 255 - 0.5) / 0.5)
    dino = write(tmp_path / "dino", "dinov2")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (images / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(
        _preprocessor(dino)(images)["pixel_values"], expected, rtol=1e-5, atol=1e-5
    )


def test_the_checkpoints_own_numbers_come_first(vit: Path) -> None:
    config = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (vit / "preprocessor_config.json").write_text(json.dumps(config))
    images = _images(2, 3, 16)
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("image_mean", "image_std"))
    torch.testing.assert_close(
        _preprocessor(vit)(images)["pixel_values"], (images / 255 - mean) / std,
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip
    (vit / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2]}))
    with pytest.raises(ModelError, match=r"image_mean .* not 3 numbers"):
        _preprocessor(vit)


def test_resizing_is_antialiased_as_pillows(vit: Path) -> None:
    smooth = np.kron(np.random.default_rng(0).integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1)))
    image = smooth.astype(np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR))
    found = _preprocessor(vit)(torch.from_numpy(image).permute(2, 0, 1)[None])["pixel_values"]
    again = (found[0].permute(1, 2, 0) * 0.5 + 0.5) * 255
    # Pillow rounds to whole levels after each of its two passes.
    assert (again - torch.from_numpy(expected.copy())).abs().max() <= 1.01


def test_grey_and_rgb_turn_into_each_other(vit: Path, tmp_path: Path) -> None:
    grey = _images(2, 1, 16)
    rgb = _preprocessor(vit)(grey)["pixel_values"]
    assert rgb.shape == (2, 3, 16, 16)
    assert torch.equal(rgb[:, 0], rgb[:, 2])
    one = write(tmp_path / "grey", "vit", num_channels=1)
    colours = _images(2, 3, 16)
    found = (_preprocessor(one)(colours)["pixel_values"][0, 0] * 0.5 + 0.5) * 255
    expected = Image.fromarray(colours[0].permute(1, 2, 0).numpy()).convert("L")
    assert (found - torch.from_numpy(np.asarray(expected).copy())).abs().max() <= 1.0
    with pytest.raises(ModelError, match="images of 4 channels do not fit a model of 3"):
        _preprocessor(vit)(_images(2, 4, 16))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel", [0, 2, 3])
def test_a_pools_images_at_once_are_those_of_each_device(
    vit: Path, kernel: int, channels: int
) -> None:
    config = {"size": {"shortest_edge": 18}, "do_center_crop": True, "crop_size": 16,
              "resample": kernel}  # fmt: skip
    (vit / "preprocessor_config.json").write_text(json.dumps(config))
    ready, images = _preprocessor(vit, aspect="checkpoint"), _images(6, channels, 28)
    parts = [ready(part)["pixel_values"] for part in images.split([1, 3, 2])]
    assert torch.equal(ready(images)["pixel_values"], torch.cat(parts))
    assert torch.equal(ready(images.expand(-1, 3, -1, -1))["pixel_values"], torch.cat(parts))


def test_texts_are_tokenised_padded_and_cut(bert: Path) -> None:
    prepare = _preprocessor(bert, max_tokens=6)
    found = prepare(["good film", "very very very very very very bad", "bad"])
    ids = {word: index for index, word in enumerate(WORDS)}
    assert found.keys() == {"input_ids", "attention_mask"}
    assert found["input_ids"].tolist() == [
        [ids["[CLS]"], ids["good"], ids["film"], ids["[SEP]"], 0, 0],
        [ids["[CLS]"], *[ids["very"]] * 4, ids["[SEP]"]],
        [ids["[CLS]"], ids["bad"], ids["[SEP]"], 0, 0, 0],
    ]
    assert found["attention_mask"].sum(1).tolist() == [4, 6, 3]
    assert prepare(["bad"])["input_ids"].shape == (1, 3)


def test_the_wrong_kind_of_data_or_tokenizer_is_one_sentence(vit: Path, bert: Path) -> None:
    with pytest.raises(ModelError, match="reads images but the data holds texts"):
        _preprocessor(vit)(["good film"])
    with pytest.raises(ModelError, match="reads texts but the data holds images"):
        _preprocessor(bert)(_images(2, 3, 16))
    (bert / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"the tokenizer of .* cannot be read") as caught:
        _preprocessor(bert)
    assert "\n" not in str(caught.value)
    (bert / "tokenizer.json").unlink()
    (bert / "vocab.txt").unlink()
    with pytest.raises(ModelError, match=r"has none of tokenizer\.json, vocab\.txt"):
        _preprocessor(bert)


def _tokenizer_config(path: Path, **values: object) -> None:
    config = {"tokenizer_class": "BertTokenizer", **values}
    (path / "tokenizer_config.json").write_text(json.dumps(config))


def test_a_tokenizer_without_padding_pads_with_what_attention_leaves_out(bert: Path) -> None:
    texts = ["very good film", "bad"]
    usual = _preprocessor(bert)(texts)
    _tokenizer_config(bert, pad_token=None)
    found = _preprocessor(bert)(texts)
    assert torch.equal(found["attention_mask"], usual["attention_mask"])
    kept = usual["attention_mask"].bool()
    assert torch.equal(found["input_ids"][kept], usual["input_ids"][kept])


def test_a_token_that_the_model_does_not_embed_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "small", "bert", vocab_size=len(WORDS) - 1)
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    _tokenizer_config(path)
    prepare = _preprocessor(path)
    assert prepare(["good bad"])["input_ids"].shape == (1, 4)
    with pytest.raises(ModelError, match=r"gives 'very' the number 7, but the model embeds 7"):
        prepare(["very good"])
