"""Which tokens of a sequence were kept: sent as one bit for each token that could be kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cutlayer.errors import FrameError
from cutlayer.wire.kept_tokens import positions_of
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
    kept = None if places is None else places.kept.numpy()
    found = positions_of(B, T, kept, places is not None and places.merged)
    return torch.from_numpy(found.copy())


def unpack_kept(
    body: memoryview, B: int, T: int, candidates: int, merged: bool
) -> tuple[Places, memoryview]:
    """Undo `kept_tokens.kept_bits`; also returns the rest of the body. Raises FrameError.

    The caller bounds B * candidates. All samples must keep equally many tokens, fewer than T.
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
