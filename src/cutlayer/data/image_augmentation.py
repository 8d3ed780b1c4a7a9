"""Images changed at random before they are trained on; every image by a generator of its own."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Rng = np.random.Generator
# A crop moves an image by at most this share of its side: four pixels of CIFAR's 32.
_SHIFT = 1 / 8
_OPERATIONS_AN_IMAGE = 2


def augment(images: Tensor, kinds: Sequence[str], rngs: Sequence[Rng]) -> Tensor:
    """The images uint8 [B,C,H,W], each changed at random by `kinds`, one after another.

    kinds: see `training.image_augmentation`. rngs: a random generator for each image.
    """
    changes = [_KINDS[kind] for kind in kinds]
    changed = []
    for image, rng in zip(images, rngs, strict=True):
        for change in changes:
            image = change(image, rng)
        changed.append(image)
    return torch.stack(changed)


def _flip(image: Tensor, rng: Rng) -> Tensor:
    return image.flip(-1) if rng.random() < 0.5 else image


def _crop(image: Tensor, rng: Rng) -> Tensor:
    """Shift the image sideways and up or down; the empty edge is filled with its mirror image."""
    height, width = image.shape[-2:]
    down, right = int(height * _SHIFT), int(width * _SHIFT)
    wide = F.pad(image.float()[None], (right, right, down, down), mode="reflect")[0]
    top, left = int(rng.integers(2 * down + 1)), int(rng.integers(2 * right + 1))
    return wide[:, top : top + height, left : left + width].to(image.dtype)


def _randaugment(image: Tensor, rng: Rng) -> Tensor:
    """Two of the operations below, each of random strength (RandAugment, arXiv 1909.13719)."""
    pixels = image.float()
    for number in rng.integers(len(_OPERATIONS), size=_OPERATIONS_AN_IMAGE):
        pixels = _OPERATIONS[number](pixels, float(rng.uniform(-1, 1)))
    return pixels.round().clamp(0, 255).to(image.dtype)


def _brightness(pixels: Tensor, strength: float) -> Tensor:
    return pixels * (1 + 0.5 * strength)


def _contrast(pixels: Tensor, strength: float) -> Tensor:
    mean = pixels.mean()
    return mean + (pixels - mean) * (1 + 0.5 * strength)


def _saturation(pixels: Tensor, strength: float) -> Tensor:
    grey = pixels.mean(dim=0, keepdim=True)
    return grey + (pixels - grey) * (1 + 0.5 * strength)


def _rotate(pixels: Tensor, strength: float) -> Tensor:
    angle = strength * np.pi / 6
    cos, sin = np.cos(angle), np.sin(angle)
    return _warp(pixels, [[cos, -sin, 0], [sin, cos, 0]])


def _shear(pixels: Tensor, strength: float) -> Tensor:
    return _warp(pixels, [[1, 0.3 * strength, 0], [0, 1, 0]])


def _zoom(pixels: Tensor, strength: float) -> Tensor:
    return _warp(pixels, [[1 + 0.2 * strength, 0, 0], [0, 1 + 0.2 * strength, 0]])


def _warp(pixels: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """pixels [C,H,W] through an affine map about the middle; the edge is repeated outwards."""
    theta = torch.tensor([list(row) for row in matrix], dtype=pixels.dtype)[None]
    grid = F.affine_grid(theta, [1, *pixels.shape], align_corners=False)
    return F.grid_sample(pixels[None], grid, padding_mode="border", align_corners=False)[0]


_KINDS: dict[str, Callable[[Tensor, Rng], Tensor]] = {
    "flip": _flip,
    "crop": _crop,
    "randaugment": _randaugment,
}
_OPERATIONS = (_brightness, _contrast, _saturation, _rotate, _shear, _zoom)
