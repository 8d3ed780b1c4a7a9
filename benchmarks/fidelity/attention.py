"""Importance curves f(K) of a real ViT: how much attention the K best tokens of a batch hold."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from benchmarks.fidelity.setting import BATCH

from cutlayer.allocate.radio_math import Floats
from cutlayer.data.sources import load
from cutlayer.model.attention import capture, cls_scores
from cutlayer.model.bank import Segment
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.weights import load_model
from cutlayer.settings.data import Data
from cutlayer.settings.model import Model

IMAGE_SIZE = 196  # 14 x 14 patches of 14 pixels: the paper's 196 tokens
CUT = 2


@torch.inference_mode()
def curves(
    model_path: Path, data_path: Path, temperatures: tuple[float, ...], batches: int, seed: int = 0
) -> dict[float, Floats]:
    """By temperature: [batches, N + 1] of f(K), the K largest scores summed over 64 images each.

    The CLS query's attention in the device's last block is softmax(logits / temperature) a head;
    1 is the model's own.
    """
    found: dict[float, list[Floats]] = {t: [] for t in temperatures}
    for query, key, heads, prefix in _queries_and_keys(model_path, data_path, batches, seed):
        for temperature, rows in found.items():
            scores = cls_scores(query / temperature, key, heads, prefix, None).double()
            ranked = scores.sort(dim=1, descending=True).values.sum(dim=0)
            rows.append(np.concatenate([[0.0], ranked.cumsum(0).numpy()]))
    return {temperature: np.array(rows) for temperature, rows in found.items()}


def _queries_and_keys(
    model_path: Path, data_path: Path, batches: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int, int]]:
    settings = Model(path=str(model_path), image_size=IMAGE_SIZE, cut=CUT)
    data = Data(
        source="parquet",
        path=str(data_path),
        input_column="image",
        train_samples=batches * BATCH,
        test_samples=10,
    )
    train, _ = load(data, seed)
    model = load_model(settings, len(train.classes), seed, "device")
    prepare, adapter, family = Preprocessor(model.spec), model.new_adapter(seed), model.spec.parts
    block = model.module.get_submodule(model.spec.block_name(CUT - 1))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(train)))
    for chosen in order.split(BATCH):
        query, key = block.get_submodule(family.query), block.get_submodule(family.key)
        with capture(query, key) as seen:
            images = prepare(train.inputs[chosen])
            model.device_forward(images, CUT, [Segment(adapter, BATCH)])
        yield seen["q"], seen["k"], model.spec.heads, model.spec.prefix
