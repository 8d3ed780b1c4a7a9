"""Decodes images of any size and kind, as a viewer shows them, into one uint8 tensor or array."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cutlayer import resize
from cutlayer.data import viewing
from cutlayer.data.viewing import Depths
from cutlayer.errors import DataError
from cutlayer.resize import Fit

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from PIL.Image import Image

LONGEST_EDGE = 256
"""Longest side in pixels of images that are held where no model says what size it reads."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""The formats that are decoded: raster formats only (EPS, for one, would start an interpreter)."""

Pixels = bytes | Path | npt.NDArray[np.uint8]
"""An image file's bytes, its path, or raw pixels [H, W] or [H, W, 3]."""

Item = tuple[str, Callable[[], Pixels]]
"""What errors call an image, and a function that reads it."""


def suffixes() -> set[str]:
    """The file suffixes, in lower case, of the formats that are decoded."""
    from PIL import Image

    return {end for end, name in Image.registered_extensions().items() if name in FORMATS}


@dataclass(frozen=True)
class Seen:
    """Sizes, colours and levels of n images.

    sizes: (height, width) [n, 2] as a viewer shows them. grey: whether all of them are grey.
    depths: which levels are black and white, for images of more than 8 bits.
    """

    sizes: npt.NDArray[np.int64]
    grey: bool
    depths: Depths


def look(items: Iterable[Item]) -> Seen:
    """Sizes, colours and levels of images; decodes only images of more than 8 bits.

    Raises DataError naming the first item that is not an image.
    """
    sizes, grey, levels = [], True, viewing.Levels()
    name = ""
    for item in items:
        name = item[0]
        with _opened(item) as image:
            grey = grey and image.mode in viewing.GREY
            levels.add(image)
            sizes.append(viewing.size_of(image))
    shape = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    try:
        return Seen(shape, grey, levels.depths())
    except ValueError as error:
        raise DataError(f"{name} cannot be shown as it is: {error}") from None


def common_size(sizes: npt.NDArray[np.int64]) -> tuple[int, int]:
    """The median height and the median width (the lower of two), within LONGEST_EDGE."""
    height, width = (int(np.sort(column)[(len(column) - 1) // 2]) for column in sizes.T)
    scale = min(1.0, LONGEST_EDGE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def held_size(seen: list[Seen], fit: Fit | None) -> tuple[int, int] | Fit:
    """The size at which images are held in memory: the one the model reads, or a smaller one.

    seen: of the training images, and of others that get the same size. Images that all have one
    size with fewer pixels than the model reads keep it; the preprocessor enlarges them. fit: how
    the model resizes images; None where no model is known: all get the training images' common
    size.
    """
    if fit is None:
        return common_size(seen[0].sizes)
    sizes = np.concatenate([one.sizes for one in seen])
    height, width = (int(length) for length in sizes[0])
    same = bool((sizes == sizes[0]).all())
    return (height, width) if same and height * width < fit.side**2 else fit


def stack(
    items: Sequence[Item],
    size: tuple[int, int] | Fit,
    grey: bool,
    depths: Depths | None = None,
    strange: Counter[str] | None = None,
) -> torch.Tensor:
    """Decode to uint8 [n, 1 or 3, H, W], as a viewer shows the images.

    size: (height, width) to which images are stretched, or a Fit by which they are resized and
    cropped. depths: levels of images of more than 8 bits (None: as `look` finds them). strange:
    counts, by kind, the properties of images that could not be followed.
    Raises DataError naming the first item that cannot be decoded.
    """
    import torch  # a light device has none

    if depths is None:
        depths = look(items).depths
    pixels = torch.empty(_shape(len(items), size, grey), dtype=torch.uint8)
    for row, item in zip(pixels, items, strict=True):
        row[:] = decoded(item, size, grey, depths, strange)
    return pixels


def decoded(
    item: Item,
    size: tuple[int, int] | Fit,
    grey: bool,
    depths: Depths,
    strange: Counter[str] | None = None,
) -> torch.Tensor:
    """One image of `stack`, uint8 [1 or 3, H, W]. Raises DataError where it cannot be decoded."""
    import torch

    batch = torch.from_numpy(_levels(item, grey, depths, strange).copy()).permute(2, 0, 1)[None]
    if isinstance(size, Fit):
        return resize.whole_levels(resize.fitted(batch, size))[0]
    return resize.whole_levels(resize.resized(batch, size, "bicubic"))[0]


def stack_arrays(
    items: Sequence[Item],
    size: tuple[int, int] | Fit,
    grey: bool,
    depths: Depths,
    strange: Counter[str] | None = None,
) -> npt.NDArray[np.uint8]:
    """As `stack`, by Pillow instead of torch; a few values differ by one level of 255."""
    pixels = np.empty(_shape(len(items), size, grey), dtype=np.uint8)
    for row, item in zip(pixels, items, strict=True):
        image = _levels(item, grey, depths, strange).transpose(2, 0, 1)
        if isinstance(size, Fit):
            made = resize.fitted_array(image, size)
        else:
            made = resize.resized_array(image, size, "bicubic")
        row[:] = np.rint(made).clip(0, 255)
    return pixels


def _shape(count: int, size: tuple[int, int] | Fit, grey: bool) -> tuple[int, int, int, int]:
    height, width = (size.side, size.side) if isinstance(size, Fit) else size
    return count, 1 if grey else 3, height, width


def _levels(
    item: Item, grey: bool, depths: Depths, strange: Counter[str] | None
) -> npt.NDArray[np.uint8]:
    """One image as a viewer shows it, [h, w, 1 or 3]."""
    with _opened(item) as image:
        shown = viewing.as_seen(image, depths, strange)
        levels = np.asarray(shown.convert("L" if grey else "RGB"), dtype=np.uint8)
    return levels.reshape(*levels.shape[:2], -1)


@contextmanager
def _opened(item: Item) -> Iterator[Image]:
    """Open an image; anything that goes wrong with it becomes a DataError that names it."""
    from PIL import Image, UnidentifiedImageError

    name, get = item
    source: Any = get()
    try:
        if isinstance(source, np.ndarray):
            yield Image.fromarray(source)
            return
        with Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS
        ) as image:
            yield image
    except FileNotFoundError:
        raise DataError(f"{name} names the image {source}, which does not exist") from None
    except UnidentifiedImageError:
        raise DataError(
            f"{name} is not an image ({', '.join(FORMATS)}): remove it or replace it"
        ) from None
    # Pillow's decoders let these out on broken files, depending on the format.
    except (
        OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError,
        Image.DecompressionBombError,
    ) as error:  # fmt: skip
        raise DataError(
            f"{name} is an image that cannot be decoded ({error}): remove it or replace it"
        ) from None
