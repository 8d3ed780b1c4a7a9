"""The size of each token as a small number that is sent with it.

Tokens of a language model differ in size by orders of magnitude. Each is divided by its size before
it is rounded: the number c stands for 2^((c - 128) / 8), within 4.5 % of the token's RMS. Tokens of
a gradient differ as much but are all rounded at one step: there the number, in whole octaves, only
chooses the laws with which a token's components are coded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cutlayer.wire.codecs.laws import Array, from_codes, to_codes

if TYPE_CHECKING:
    from torch import Tensor


def size_codes(rows: Tensor, octaves: bool) -> NDArray[np.uint8]:
    """The number of each row of [n, D]: 0 to 255, or 0 to 31 in octaves."""
    import torch  # code that only reads sizes needs no tensors

    rms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).numpy() / rows.shape[1] ** 0.5
    codes = to_codes(rms, 1.0)
    return codes >> np.uint8(3) if octaves else codes


def sizes_of(codes: NDArray[np.uint8], octaves: bool) -> Array:
    """The sizes [n] that the numbers stand for; for an octave, its middle."""
    return from_codes((codes << np.uint8(3)) + np.uint8(4) if octaves else codes)
