"""Bytes that sending the samples themselves would take, to compare with what crosses a cut."""

from __future__ import annotations

import io

import numpy as np
import torch
import zstandard

from cutlayer.data.dataset import Dataset
from cutlayer.data.rows import spread
from cutlayer.data.sources import load_some
from cutlayer.passage import Passage
from cutlayer.resize import Fit, fitted, whole_levels
from cutlayer.settings.data import Data

QUALITY = 75
"""Quality of JPEG and WebP, out of 100."""


def own_bytes(data: Dataset, fit: Fit | None) -> dict[str, int]:
    """Bytes of all samples of `data`, by format.

    Images, resized and cropped as `fit` says: jpeg and webp. Texts, joined as UTF-8 and compressed
    with zstandard: zstd. Of images that were loaded from files of their own, those files: stored.
    At most 64 images, evenly spread over the data, are encoded and stand for all.
    """
    every = spread(len(data))
    if isinstance(data.pool, list):
        texts = [one if isinstance(one, str) else _text_of(one) for one in data.inputs]
        whole = "\n".join(texts).encode("utf-8", "replace")
        return {"zstd": len(zstandard.ZstdCompressor(level=19).compress(whole))}
    inputs = data.subset(every).inputs
    assert isinstance(inputs, torch.Tensor)
    pixels = inputs.float()
    if fit is not None and tuple(pixels.shape[-2:]) != (fit.side, fit.side):
        pixels = fitted(pixels, fit)
    found = {"jpeg": 0, "webp": 0}
    for image in whole_levels(pixels).permute(0, 2, 3, 1).numpy():
        for name in found:
            found[name] += _encoded(image, name)
    sizes = {name: round(size / len(every) * len(data)) for name, size in found.items()}
    stored = None if data.report is None else data.report.stored_bytes
    return sizes if stored is None else sizes | {"stored": stored}


def training_bytes(data: Data, seed: int, fit: Fit | None) -> dict[str, int]:
    """`own_bytes` of the training samples that `data` names, of which no more are loaded than are
    encoded. Raises DataError."""
    some, samples = load_some(data, seed, fit)
    found = own_bytes(some, fit)
    return {name: round(size / len(some) * samples) for name, size in found.items()}


def _text_of(passage: Passage) -> str:
    said = [message.content for message in passage.messages]
    return "\n".join([passage.prompt, passage.completion, *said])


def _encoded(image: np.ndarray, name: str) -> int:
    """Bytes of an image [H, W, C], C 1 or 3."""
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    out = io.BytesIO()
    picture.save(out, name, quality=QUALITY)
    return out.tell()
