"""The original positions of the tokens of a shortened sequence, in numpy alone, for all devices."""

import numpy as np
from numpy.typing import NDArray

from cutlayer.wire.codecs.seam import MERGED
from cutlayer.wire.packing import pack_flags

Indices = NDArray[np.int64]


def positions_of(B: int, T: int, kept: Indices | None, merged: bool) -> Indices:
    """The position [B, T] of every token in its sample, `MERGED` for a merged one.

    kept: [B, K], indices of the candidates that were kept, counted after the prefix, rising in each
    row; None: all tokens are there. Raises ValueError if these do not make T tokens.
    """
    if kept is None:
        return np.broadcast_to(np.arange(T), (B, T))
    prefix = T - kept.shape[1] - merged
    if prefix < 0 or len(kept) != B:
        raise ValueError(f"kept {kept.shape} does not fit tensor {(B, T)}")
    parts = [np.broadcast_to(np.arange(prefix), (B, prefix)), prefix + kept]
    if merged:
        parts.append(np.full((B, 1), MERGED))
    return np.concatenate(parts, 1)


def kept_bits(kept: Indices, candidates: int) -> bytes:
    """B N bits, sample by sample, 1 where a candidate was kept."""
    flags = np.zeros((len(kept), candidates), np.bool_)
    np.put_along_axis(flags, kept, True, 1)
    return pack_flags(flags)
