"""Generated images: which are drawn, and the generator that numbers, times and resizes them.

An image belongs to (seed, its class, how many of that class came before it in the call) and to
nothing else: asking for more images, in another order or in other batches, changes none of them.
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
        """The image's own seed; by the name of its class, so that the order of classes does not
        count.
        """
        return derive(self.seed, "image", name, self.number)


Draw = Callable[[Sequence[Wanted]], Tensor]
"""Draws uint8 [n, channels, height, width], one image for each that is wanted."""


class ImageGenerator:
    """A generator made of a function that draws: numbers the images, times and resizes them.

    batch: images drawn at once. It changes speed and memory, and images only by how a machine
    rounds in batches of another size.
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
        """Measured in the last call that drew any; None before it."""
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
    """uint8 [n,C,h,w] at `size`, antialiased; unchanged where it has that size."""
    if tuple(images.shape[-2:]) == size:
        return images
    return whole_levels(resize.resized(images, size, "bicubic"))
