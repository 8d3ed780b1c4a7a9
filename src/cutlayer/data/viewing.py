"""A picture as a viewer shows it: upright, on white, in sRGB, its levels from black to white."""

from __future__ import annotations

import io
import math
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

Depths = dict[str, tuple[float, float]]
"""The levels (black, white) of images of whole numbers ("int") and of floating ones ("float")."""

GREY = {"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N", "I", "F"}
_TURNED = (5, 6, 7, 8)
_ORIENTATION = 0x0112
_NEEDED_BITS = 14


def size_of(image: Image) -> tuple[int, int]:
    """Height and width as shown. A PNG is read to its end, since its EXIF may come last."""
    # Pillow turns the size of a TIFF when it opens it.
    if image.format != "TIFF" and image.getexif().get(_ORIENTATION) in _TURNED:
        return image.width, image.height
    return image.height, image.width


class Levels:
    """The range of levels over images of more than 8 bits."""

    def __init__(self) -> None:
        self._ranges: Depths = {}
        self._coarse: int | None = None

    def add(self, image: Image) -> None:
        """Take an image in. Raises ValueError for levels that are not numbers."""
        if _is_deep(image):
            levels = _levels(image)
            kind = "float" if image.mode == "F" else "int"
            low, high = self._ranges.get(kind, (math.inf, -math.inf))
            self._ranges[kind] = (min(low, float(levels.min())), max(high, float(levels.max())))
        elif _is_deep_colour(image):
            # Pillow decodes the upper 8 of these 16 bits only.
            top = int(np.asarray(image.convert("RGB")).max())
            self._coarse = max(self._coarse or 0, top)

    def depths(self) -> Depths:
        """Which levels are black and white, by the range of all images together.

        If no level is below 0, black is 0 and white is the largest number of as many bits as the
        levels need (of levels up to 1, the next power of two). Raises ValueError for colours of 16
        bits that use few of these bits.
        """
        if self._coarse is not None and self._coarse < 2 ** (_NEEDED_BITS - 8):
            raise ValueError(
                f"its colours have 16 bits and the brightest of all images uses fewer than "
                f"{_NEEDED_BITS}: write them with 8 bits, scaled"
            )
        return {kind: _span(low, high) for kind, (low, high) in self._ranges.items()}


def described(depths: Depths) -> list[str]:
    """A sentence on which levels became black and white; empty where all 16 bits are used."""
    return [
        f"levels {low:g} to {high:g} taken as black to white"
        for low, high in depths.values()
        if (low, high) != (0, 2**16 - 1)
    ]


def as_seen(image: Image, depths: Depths, strange: Counter[str] | None = None) -> Image:
    """The image in mode L or RGB: turned by EXIF, on white, in sRGB, first frame of a film.

    strange: counts, by kind, the properties of images that could not be followed. Raises what
    Pillow raises, or ValueError.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps

    image.load()
    profile = image.info.get("icc_profile")
    if _is_deep(image):
        shown = Pillow.fromarray(_scaled(_levels(image), depths, image.mode))
        alpha = _keyed(image)
        orientation = image.getexif().get(_ORIENTATION)
        if orientation and image.format != "TIFF":
            shown.getexif()[_ORIENTATION] = orientation
    else:
        shown = ImageOps.exif_transpose(image)
        shown, alpha = _without_alpha(shown)
    shown = _in_srgb(shown, profile, strange)
    if alpha is not None:
        white = Pillow.new(shown.mode, shown.size, "white")
        shown = Pillow.composite(shown, white, alpha)
    return ImageOps.exif_transpose(shown) if _is_deep(image) else shown


def _is_deep(image: Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _is_deep_colour(image: Image) -> bool:
    tile: Any = getattr(image, "tile", None) or []
    arguments = str(tile[0][3]) if tile else ""
    return image.mode in ("RGB", "RGBA", "LA") and ";16" in arguments


def _levels(image: Image) -> npt.NDArray[Any]:
    levels = np.asarray(image)
    if image.mode == "F" and not np.isfinite(levels).all():
        raise ValueError("some of its levels are not numbers")
    return levels


def _span(low: float, high: float) -> tuple[float, float]:
    if low < 0:
        return low, max(high, low + 1)
    if high <= 1:
        return 0.0, 2.0 ** math.ceil(math.log2(high)) if high > 0 else 1.0
    return 0.0, 2.0 ** math.ceil(math.log2(high + 1)) - 1


def _scaled(levels: npt.NDArray[Any], depths: Depths, mode: str) -> npt.NDArray[np.uint8]:
    low, high = depths["float" if mode == "F" else "int"]
    part = (levels.astype(np.float64) - low) / (high - low)
    scaled: npt.NDArray[np.uint8] = np.rint(255 * part.clip(0, 1)).astype(np.uint8)
    return scaled


def _keyed(image: Image) -> Image | None:
    """The mask of a 16-bit grey image in which one level is transparent."""
    from PIL import Image as Pillow

    key = image.info.get("transparency")
    if not isinstance(key, int):
        return None
    return Pillow.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))


def _without_alpha(image: Image) -> tuple[Image, Image | None]:
    """Colours of mode L, RGB, CMYK or LAB, and the mask of what is not transparent."""
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        grey = image.mode in ("1", "L", "LA")
        image = image.convert("LA" if grey else "RGBA")
        return image.convert("L" if grey else "RGB"), image.getchannel("A")
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _in_srgb(image: Image, profile: bytes | None, strange: Counter[str] | None) -> Image:
    """The image in sRGB, by its colour profile; a profile that cannot be followed is ignored."""
    from PIL import ImageCms

    mode = image.mode
    if profile or mode == "LAB":
        try:
            transform = _transform(profile or b"", mode)
            if transform is not None:
                image = ImageCms.applyTransform(image, transform) or image  # None in place only
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            if strange is not None:
                strange["colour profiles that do not fit their images, passed over"] += 1
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> Any:
    """The transform from a profile to sRGB; None if the profile is sRGB. Raises PyCMSError."""
    from PIL import ImageCms

    if mode == "LAB":
        source: Any = ImageCms.createProfile("LAB")
    else:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(source).strip().lower()
        if name.startswith("srgb"):
            return None
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
