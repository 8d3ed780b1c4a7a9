"""Prepares images for a program: in the model's size and channels, with levels 0 ... 255."""

import numpy as np
from numpy.typing import NDArray

from cutlayer.light.job import Images
from cutlayer.resize import fitted_array

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)[:, None, None]
"""Weights of red, green and blue in grey, by ITU-R BT.601 (see `model.inputs.LUMA`)."""


def ready_images(held: NDArray[np.uint8], images: Images) -> NDArray[np.float32]:
    """float32 [B, channels, S, S] of images [B, 1 or 3, H, W]; see `model.inputs.Preprocessor`."""
    pixels = held.astype(np.float32)
    if pixels.shape[1] == 1 and images.channels == 3:
        pixels = np.repeat(pixels, 3, 1)
    elif pixels.shape[1] == 3 and images.channels == 1:
        pixels = (pixels * _LUMA).sum(1, keepdims=True)
    if pixels.shape[-2:] != (images.side, images.side):
        pixels = np.stack([fitted_array(one, images.fit) for one in pixels])
    return np.ascontiguousarray(pixels)
