"""Encoded or raw images of any size and mode -> one uint8 tensor."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from cutlayer.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

LONGEST_EDGE = 512
"""Images are stored at most this large, so that photographs fit in memory."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is decoded: raster formats only (EPS, for one, would start an interpreter)."""

GREY = {"1", "L", "LA", "I;16", "I;16L", "I;16B", "I;16N"}

Pixels = bytes | Path | npt.NDArray[np.uint8]
"""An image file's bytes, its path, or raw pixels [H, W] or [H, W, 3]."""

Item = tuple[str, Callable[[], Pixels]]
"""What to call an image in an error, and how to get it."""


def suffixes() -> set[str]:
    """The file suffixes, in lower case, of the formats that are decoded."""
    from PIL import Image

    return {end for end, name in Image.registered_extensions().items() if name in FORMATS}


def look(items: Iterable[Item]) -> tuple[npt.NDArray[np.int64], bool]:
    """The sizes (height, width) [n, 2] and whether all are grey; opens headers only.

    Raises DataError naming the first item that is no image.
    """
    sizes, grey = [], True
    for item in items:
        with _opened(item) as image:
            sizes.append((image.height, image.width))
            grey = grey and image.mode in GREY
    return np.array(sizes, dtype=np.int64).reshape(-1, 2), grey


def common_size(sizes: npt.NDArray[np.int64]) -> tuple[int, int]:
    """The median height and the median width (the lower of two), within LONGEST_EDGE."""
    height, width = (int(np.sort(column)[(len(column) - 1) // 2]) for column in sizes.T)
    scale = min(1.0, LONGEST_EDGE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def stack(items: list[Item], size: tuple[int, int], grey: bool) -> torch.Tensor:
    """Decode to uint8 [n, 1 or 3, H, W]; other sizes are resized (bicubic), alpha is dropped.

    Raises DataError naming the first item that cannot be decoded.
    """
    pixels = np.empty((len(items), *size, 1 if grey else 3), dtype=np.uint8)
    for row, item in zip(pixels, items, strict=True):
        with _opened(item) as image:
            row[:] = _pixels(image, size, grey)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def _pixels(image: Image, size: tuple[int, int], grey: bool) -> npt.NDArray[np.uint8]:
    from PIL import Image as Pillow

    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits, not scale them
        image = Pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} are not 8 or 16 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert("L" if grey else "RGB")
    if (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), Pillow.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8).reshape(*size, -1)


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
        OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError,
    ) as error:  # fmt: skip
        raise DataError(
            f"{name} is an image that cannot be decoded ({error}): remove it or replace it"
        ) from None
