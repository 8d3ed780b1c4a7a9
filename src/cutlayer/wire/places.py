"""Where the tokens of a shortened sequence stood: told in one bit for each that could be kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cutlayer.errors import FrameError
from cutlayer.wire.codecs.seam import MERGED
from cutlayer.wire.transfer import to_host


@dataclass(frozen=True, eq=False)
class Places:
    """Which tokens were kept.

    kept: [B, K] int64, rising in each row, of the N `candidates` behind the prefix (see `tokens`).
    merged: whether one last token stands for all the others.
    """

    kept: Tensor
    candidates: int
    merged: bool


def places_on_cpu(given: Sequence[Places | None]) -> list[Places | None]:
    """Places with `kept` on the CPU: one copy for all of them."""
    kept = [places.kept for places in given if places is not None]
    if all(one.device.type == "cpu" for one in kept):
        return list(given)
    flat = to_host(torch.cat([one.reshape(-1) for one in kept]))
    parts = iter(torch.split(flat, [one.numel() for one in kept]))
    return [
        None if places is None else replace(places, kept=next(parts).view_as(places.kept))
        for places in given
    ]


def find_places(hidden: Tensor, places: Places | None) -> Tensor:
    """The position [B, T] of every token of hidden [B, T, D], `MERGED` for a merged one.

    places: with `kept` on the CPU.
    """
    B, T = hidden.shape[:2]
    if places is None:
        return torch.arange(T).expand(B, T)
    prefix = T - places.kept.shape[1] - places.merged
    if prefix < 0 or len(places.kept) != B:
        raise ValueError(f"kept {tuple(places.kept.shape)} does not fit tensor {(B, T)}")
    parts = [torch.arange(prefix).expand(B, prefix), prefix + places.kept]
    if places.merged:
        parts.append(torch.full((B, 1), MERGED))
    return torch.cat(parts, 1)


def pack_kept(places: Places) -> bytes:
    """B N bits, sample by sample, 1 where a candidate was kept; `kept` is on the CPU."""
    bits = torch.zeros(len(places.kept), places.candidates, dtype=torch.bool)
    bits.scatter_(1, places.kept, True)
    return np.packbits(bits.numpy().reshape(-1), bitorder="little").tobytes()


def unpack_kept(
    body: memoryview, B: int, T: int, candidates: int, merged: bool
) -> tuple[Places, memoryview]:
    """Undo `pack_kept`, and what follows in the body. Raises FrameError.

    The caller bounds B * candidates. Every sample must keep as many tokens, and fewer than T.
    """
    size = -(-B * candidates // 8)
    if size > len(body):
        raise FrameError("the frame's body is shorter than its header declares: have it sent again")
    bits = np.unpackbits(
        np.frombuffer(body[:size], np.uint8), count=B * candidates, bitorder="little"
    ).reshape(B, candidates)
    counts = bits.sum(1, dtype=np.int64)
    K = int(counts[0])
    if (counts != K).any() or K + merged > T:
        raise FrameError(
            f"the frame keeps {sorted(set(counts.tolist()))} of {candidates} tokens in samples of "
            f"{T}: have it sent again"
        )
    kept = torch.from_numpy(np.nonzero(bits)[1].reshape(B, K))
    return Places(kept, candidates, merged), body[size:]
