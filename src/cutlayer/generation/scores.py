"""Scores of generated images: a classifier's accuracy, a Frechet distance, nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutlayer.data.dataset import Dataset, Indices
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.inputs import Preprocessor
from cutlayer.seeds import derive, torch_rng

Rows = npt.NDArray[np.float32]
"""An array with a row for each sample."""


def features(model: CutModel, preprocess: Preprocessor, images: Tensor, batch: int = 128) -> Rows:
    """The input of the frozen model's head for each of `images` [n,C,H,W]: float32 [n,D]."""
    seen = []
    untrained = model.new_adapter(0)
    with torch.no_grad():
        for part in torch.split(images, batch):
            inputs = {k: v.to(model.compute) for k, v in preprocess(part).items()}
            read = model.features(inputs, [Segment(untrained, len(part))])
            seen.append(read.float().cpu())
    rows: Rows = torch.cat(seen).numpy()
    return rows


def frechet(one: Rows, other: Rows) -> float:
    """Frechet distance of the Gaussians fitted to two sets of rows [n,D] and [m,D].

    |mean1 - mean2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al., arXiv:1706.08500). Small
    sets overestimate it: compare only distances of equally many rows.
    """
    shift = one.mean(axis=0, dtype=np.float64) - other.mean(axis=0, dtype=np.float64)
    first, second = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (one, other))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    # C1 C2 has the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2).
    both = np.linalg.eigvalsh(root @ second @ root).clip(min=0)
    distance = shift @ shift + np.trace(first) + np.trace(second) - 2 * np.sqrt(both).sum()
    return max(0.0, float(distance))


def nearest(rows: Rows, pool: Rows, chunk: int = 256) -> tuple[Rows, Indices]:
    """Euclidean distance [n] of each row [n,D] to the nearest row of `pool` [m,D], and its index.

    The nearest is found by inner products, and the distance is computed from the difference, so
    equal rows have distance 0.
    """
    where = []
    squares = np.square(pool).sum(axis=1)
    for start in range(0, len(rows), chunk):
        products = rows[start : start + chunk] @ pool.T
        where.append((squares - 2 * products).argmin(axis=1))
    found = np.concatenate(where).astype(np.int64)
    return np.linalg.norm(rows - pool[found], axis=1), found


@dataclass(frozen=True)
class Memory:
    """How near generated images, and unseen real ones, are to the generator's training images.

    generated, real: median distance to the nearest training image. copies: share of generated
    images that are nearer to a training image than 99 % of the real ones; about 0.01 if no image
    was learned by heart.
    """

    generated: float
    real: float
    copies: float


def memory(generated: Rows, real: Rows) -> Memory:
    """Compare distances [n] of generated images with those [m] of unseen real ones."""
    close = np.quantile(real, 0.01)
    return Memory(
        float(np.median(generated)), float(np.median(real)), float((generated < close).mean())
    )


def pixels(images: Tensor) -> Rows:
    """Images uint8 [n,C,H,W] as rows [n,C*H*W] of 0..1."""
    rows: Rows = images.flatten(1).float().div(255).numpy()
    return rows


def train_classifier(data: Dataset, seed: int, epochs: int = 12, batch: int = 64) -> nn.Module:
    """A small convolutional network trained on `data` alone, by AdamW with a falling rate."""
    assert isinstance(data.inputs, Tensor)
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "classifier"))
        network = _network(data.inputs.shape[1], len(data.classes))
    labels = torch.from_numpy(data.labels)
    steps = epochs * -(-len(data) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for epoch in range(epochs):
        order = torch.randperm(len(data), generator=torch_rng(seed, "classifier", epoch))
        for rows in torch.split(order, batch):
            loss = F.cross_entropy(network(_scaled(data.inputs[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            falling.step()
    return network.eval()


def accuracy(network: nn.Module, data: Dataset) -> tuple[float, list[float]]:
    """Share of the images that `network` classifies right: of all, and by class [C].

    NaN for a class without images.
    """
    assert isinstance(data.inputs, Tensor)
    with torch.no_grad():
        guesses = torch.cat(
            [network(_scaled(part)).argmax(1) for part in torch.split(data.inputs, 256)]
        )
    right = guesses.numpy() == data.labels
    by_class = [
        float(right[data.labels == index].mean()) if (data.labels == index).any() else float("nan")
        for index in range(len(data.classes))
    ]
    return float(right.mean()), by_class


def _network(channels: int, classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for width in (32, 64, 128):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
        ]
        channels = width
    # Large images are pooled to the same 4 x 4 as small ones.
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(2048, classes)
    )


def _scaled(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1
