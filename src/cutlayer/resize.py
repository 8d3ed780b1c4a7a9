"""Resizes all images that a model reads.

Its callers, by torch: `decoded` in data/images.py (images from files), `resized` in
data/image_generator.py (generated images), data/own_bytes.py (images whose size as JPEG and WebP is
measured), `Preprocessor` in model/inputs.py (images to the size that the model reads, which
model/framing.py says) and `seen` in privacy/attacks.py (images that an audit compares). By Pillow
in floats, on light devices: `stack_arrays` in data/images.py and light/images.py; they differ from
torch's in the last bits of a float.
Not by this file: pictures on a page are made smaller by Pillow (reports/views/patches.py), and
augmentation zooms, turns and shears without changing the size (`_warp` in
data/image_augmentation.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Kernel = Literal["nearest-exact", "bilinear", "bicubic"]


@dataclass(frozen=True)
class Fit:
    """How an image becomes the square that a model reads.

    side: pixels a side of the square. edge: pixels to which the image is resized before the
    middle is cut out, never less than side. keep_aspect: only the shorter edge becomes `edge`, the
    longer one follows; otherwise both do, which stretches what is not square.
    """

    side: int
    edge: int
    keep_aspect: bool = False
    kernel: Kernel = "bilinear"

    def at(self, side: int) -> Fit:
        """The same at another size: as much of the image is cut off."""
        return replace(self, side=side, edge=max(side, round(self.edge * side / self.side)))

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before the cut."""
        if not self.keep_aspect:
            return self.edge, self.edge
        short = min(height, width)
        return self.edge * height // short, self.edge * width // short


def fitted(pixels: Tensor, how: Fit) -> Tensor:
    """float32 [B,C,side,side] of `pixels` [B,C,H,W], levels 0 ... 255."""
    pixels = resized(pixels, how.resized(*pixels.shape[-2:]), how.kernel)
    top, left = ((length - how.side) // 2 for length in pixels.shape[-2:])
    return pixels[..., top : top + how.side, left : left + how.side]


def resized(pixels: Tensor, size: tuple[int, int], kernel: Kernel) -> Tensor:
    """float32 [B,C,*size] of `pixels` [B,C,H,W], levels 0 ... 255; antialiased as Pillow does."""
    import torch.nn.functional as F

    pixels = pixels.float()
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    if kernel == "nearest-exact":
        return F.interpolate(pixels, size, mode=kernel)
    pixels = F.interpolate(pixels, size, mode=kernel, antialias=True, align_corners=False)
    return pixels.clamp(0, 255) if kernel == "bicubic" else pixels


def whole_levels(pixels: Tensor) -> Tensor:
    """uint8 of pixels at levels 0 ... 255."""
    import torch

    return pixels.round().clamp(0, 255).to(torch.uint8)


def fitted_array(image: NDArray[Any], how: Fit) -> NDArray[np.float32]:
    """float32 [C,side,side] of one image [C,H,W], levels 0 ... 255."""
    made = resized_array(image, how.resized(*image.shape[-2:]), how.kernel)
    top, left = ((length - how.side) // 2 for length in made.shape[-2:])
    return made[..., top : top + how.side, left : left + how.side]


def resized_array(
    image: NDArray[Any], size: tuple[int, int], kernel: Kernel
) -> NDArray[np.float32]:
    """float32 [C,*size] of one image [C,H,W], levels 0 ... 255, antialiased."""
    from PIL import Image

    kernels = {"nearest-exact": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
    planes = image.astype(np.float32)
    if tuple(planes.shape[-2:]) == size:
        return planes
    wanted = (size[1], size[0])
    found = np.stack(
        [
            np.asarray(
                Image.fromarray(plane).resize(wanted, kernels.get(kernel, Image.Resampling.BICUBIC))
            )
            for plane in planes
        ]
    )
    return found.clip(0, 255) if kernel == "bicubic" else found
