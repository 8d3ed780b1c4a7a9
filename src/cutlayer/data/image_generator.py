"""Generated images: which are drawn, and the generator that numbers, times and resizes them.

An image depends only on the seed, its class and its number among that class's images of the call:
asking for more images, in another order or in other batches, changes none of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cutlayer import resize
from cutlayer.resize import whole_levels
from cutlayer.seeds import derive

Shape = tuple[int, tuple[int, int]]
"""Channels and (height, width)."""


@dataclass(frozen=True)
class Wanted:
    """One image to draw: the `number`-th of class `label` under `seed`."""

    label: int
    number: int
    seed: int

    def derived(self, name: str) -> int:
        """The image's own seed. It is made of the class's name, not of its index, so that the order
        of classes does not matter.
        """
        return derive(self.seed, "image", name, self.number)


Draw = Callable[[Sequence[Wanted]], Tensor]
"""Draws the wanted images as uint8 [n, channels, height, width]."""


class ImageGenerator:
    """A generator around a function that draws: numbers the images, times and resizes them.

    batch: how many images are drawn at once. It changes speed and memory; images change only by
    rounding, which may differ with the size of a batch.
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        channels: int,
        image_size: tuple[int, int],
        draw: Draw,
        batch: int,
    ) -> None:
        self.classes = classes
        self.channels = channels
        self.image_size = image_size
        self._draw, self._batch = draw, batch
        self._image_s: float | None = None

    @property
    def seconds_per_image(self) -> float | None:
        """Seconds that an image took in the last call that drew any; None before such a call."""
        return self._image_s

    def generate(self, labels: npt.NDArray[np.int64], seed: int) -> Tensor:
        """Images uint8 [n,C,H,W] of `labels` [n]; the same arguments give the same images."""
        start = time.perf_counter()
        wanted = numbered(labels, seed, len(self.classes))
        images = torch.empty(len(wanted), self.channels, *self.image_size, dtype=torch.uint8)
        for first in range(0, len(wanted), self._batch):
            block = wanted[first : first + self._batch]
            images[first : first + len(block)] = resized(self._draw(block), self.image_size)
        if wanted:
            self._image_s = (time.perf_counter() - start) / len(wanted)
        return images


def numbered(labels: npt.NDArray[np.int64], seed: int, classes: int) -> list[Wanted]:
    """The images that `labels` ask for, each numbered within its class."""
    seen = [0] * classes
    wanted = []
    for label in np.asarray(labels).tolist():
        if not 0 <= label < classes:
            raise ValueError(f"label {label} is none of the generator's {classes} classes")
        wanted.append(Wanted(label, seen[label], seed))
        seen[label] += 1
    return wanted


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The images uint8 [n,C,h,w] resized to `size` (height, width), antialiased."""
    if tuple(images.shape[-2:]) == size:
        return images
    return whole_levels(resize.resized(images, size, "bicubic"))
