"""Images on demand: one protocol, `generate(labels, seed) -> images`, whatever draws them."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cutlayer.data import diffusion
from cutlayer.data.dataset import Dataset, Indices
from cutlayer.data.image_generator import Draw, ImageGenerator, Shape, Wanted
from cutlayer.data.sources import load
from cutlayer.errors import DataError
from cutlayer.seeds import numpy_rng
from cutlayer.settings.data import Data
from cutlayer.settings.generator import GeneratorSettings as Settings


class Generator(Protocol):
    """Draws labelled images.

    classes: a label is an index into them. image_size: (height, width). channels: 1 (grey) or 3
    (RGB).
    """

    classes: tuple[str, ...]
    image_size: tuple[int, int]
    channels: int

    @property
    def seconds_per_image(self) -> float | None:
        """Seconds that an image took in the last call that drew any; None before such a call."""

    def generate(self, labels: npt.NDArray[np.int64], seed: int) -> Tensor:
        """Images uint8 [n,C,H,W] of `labels` [n]; the same arguments give the same images."""


def load_generator(
    settings: Settings, like: Dataset, device: torch.device | str = "cpu"
) -> Generator:
    """The generator that `settings` name, for the classes, size and channels of the images `like`.

    Labels index `like.classes`; a generator may know more classes. Raises DataError when it
    cannot be found or read, lacks a class or a prompt, or draws images of another size (unless
    `settings.resize`) or other channels.
    """
    if like.modality == "text":
        raise DataError("generator: the data are texts, and generators draw images: take images")
    channels, *sides = like.image_shape
    size = (sides[0], sides[1])
    if settings.source == "diffusers":
        from cutlayer.data.pipelines import open_pipeline

        draw, native = open_pipeline(settings, like.classes, device)
    elif settings.source == "folder":
        draw, native = _open_folder(settings, like.classes)
    else:
        draw, native = _open_diffusion(settings, like.classes, device)
    name = f"generator.source={settings.source!r}" + (
        f" (path {settings.path})" if settings.path else ""
    )
    check_shape(name, native, (channels, size), settings.resize)
    return ImageGenerator(like.classes, channels, size, draw, settings.batch)


def check_shape(name: str, drawn: Shape, data: Shape, resize: bool) -> None:
    """Raises DataError where images as drawn do not fit those of the data."""
    if drawn[0] != data[0]:
        colours = {1: "grey", 3: "RGB"}
        have, want = (colours.get(n, f"{n}-channel") for n in (drawn[0], data[0]))
        raise DataError(
            f"{name} draws {have} images, but the data are {want}: take a generator of {want} "
            f"images, or turn the data into {have} ones"
        )
    if drawn[1] != data[1] and not resize:
        (high, wide), (height, width) = drawn[1], data[1]
        raise DataError(
            f"{name} draws images of {high} x {wide} pixels, but the data have {height} x {width}: "
            "take a generator trained at the data's size, or set generator.resize=true"
        )


def match_classes(name: str, known: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The index in `known` of each of `classes`. Raises DataError for a class that is not there."""
    for wanted in classes:
        if wanted not in known:
            listed = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
            raise DataError(
                f"{name} knows no class {wanted!r} of the data (it knows {listed}): take a "
                "generator trained on the data's classes"
            )
    return [known.index(wanted) for wanted in classes]


def _open_diffusion(
    settings: Settings, classes: tuple[str, ...], device: torch.device | str
) -> tuple[Draw, Shape]:
    if settings.path:
        name = f"generator.path={settings.path!r}"
        model, unet = diffusion.load(Path(settings.path).expanduser(), device)
    else:
        name = "generator.source='demo'"
        folder = importlib.resources.files("cutlayer.assets") / "demo-generator"
        with importlib.resources.as_file(folder) as path:
            model, unet = diffusion.load(path, device)
    known = match_classes(name, model.classes, classes)
    steps = settings.steps or model.steps
    guidance = model.guidance if settings.guidance is None else settings.guidance

    def draw(wanted: Sequence[Wanted]) -> Tensor:
        labels = torch.tensor([known[one.label] for one in wanted])
        noise = torch.stack([own_noise(one, classes[one.label], model.folded) for one in wanted])
        return diffusion.draw(unet, model, labels, noise, steps, guidance)

    return draw, (model.channels, model.image_size)


def own_noise(wanted: Wanted, name: str, shape: tuple[int, ...]) -> Tensor:
    """The standard normal noise [*shape] from which an image of class `name` is drawn."""
    rng = torch.Generator().manual_seed(wanted.derived(name))
    return torch.randn(shape, generator=rng)


def _open_folder(settings: Settings, classes: tuple[str, ...]) -> tuple[Draw, Shape]:
    """Draws images from a folder of earlier ones, in a seeded order, over and over."""
    path = str(Path(settings.path or "").expanduser())
    if not Path(path).is_dir():
        raise DataError(
            f"generator.path={path!r} is no folder: name one with a subfolder of images a class"
        )
    # With the folder as its own test data, load() holds no part of it out.
    images, _ = load(Data(source="folder", path=path, test_path=path, test_samples=1), 0)
    assert isinstance(images.inputs, Tensor)
    pixels = images.inputs
    known = match_classes(f"generator.path={path!r}", images.classes, classes)
    rows = [np.flatnonzero(images.labels == index) for index in known]

    def draw(wanted: Sequence[Wanted]) -> Tensor:
        return pixels[torch.tensor([_row(rows[one.label], one, classes) for one in wanted])]

    return draw, diffusion.shape_of(pixels)


def _row(rows: Indices, wanted: Wanted, classes: tuple[str, ...]) -> int:
    turn, place = divmod(wanted.number, len(rows))
    order = numpy_rng(wanted.seed, "image", classes[wanted.label], turn).permutation(len(rows))
    return int(rows[order[place]])
