"""Texts of a batch put behind one another in rows, so that less padding is computed.

Only texts of one adapter share a row. Every token keeps its position in its own text and sees no
other text, so the results are the same as with a row for each text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Packed:
    """Where the tokens of a batch [B,T] stand in R rows of T.

    source [R,T]: the index b T + t of each token in the batch. valid [R,T] bool: False where a row
    has no token. places [R,T]: the position of each token in its text. texts [R,T]: the number of
    its text in the row; the empty rest of a row counts to its last text. rows: how many rows each
    adapter has.
    """

    source: Tensor
    valid: Tensor
    places: Tensor
    texts: Tensor
    rows: tuple[int, ...]

    def pack(self, hidden: Tensor) -> Tensor:
        """[B,T,D] -> [R,T,D]; behind the last text of a row stand zeros."""
        flat = hidden.flatten(0, 1)[self.source.flatten()]
        return flat.view(*self.source.shape, -1) * self.valid[..., None]

    def unpack(self, hidden: Tensor, batch: int) -> Tensor:
        """[R,T,D] -> [B,T,D]; padding is zero."""
        _, T, D = hidden.shape
        flat = hidden.new_zeros(batch * T, D)
        flat = flat.index_copy(0, self.source[self.valid], hidden[self.valid])
        return flat.view(batch, T, D)


def packed(mask: Tensor, sizes: Sequence[int]) -> Packed | None:
    """How to pack a batch of texts whose padding is behind them; None if that saves no row.

    mask [B,T]: False is padding. sizes: how many texts each adapter has, in their order. Texts are
    placed from the longest to the shortest, each into the first row that has room.
    """
    lengths, T = mask.sum(1).tolist(), mask.shape[1]
    rows: list[list[int]] = []
    counts, start = [], 0
    for size in sizes:
        own: list[list[int]] = []
        for text in sorted(range(start, start + size), key=lambda one: -lengths[one]):
            found = next((r for r in own if sum(lengths[o] for o in r) + lengths[text] <= T), None)
            if found is None:
                own.append([text])
            else:
                found.append(text)
        rows += own
        counts.append(len(own))
        start += size
    if len(rows) == len(lengths):
        return None
    source, places = torch.zeros(len(rows), T, dtype=torch.long), torch.zeros(len(rows), T).long()
    valid, texts = torch.zeros(len(rows), T, dtype=torch.bool), torch.zeros(len(rows), T).long()
    for row, members in enumerate(rows):
        at = 0
        for number, text in enumerate(members):
            here = slice(at, at + lengths[text])
            places[row, here] = torch.arange(lengths[text])
            source[row, here] = text * T + places[row, here]
            valid[row, here] = True
            texts[row, at:] = number
            at += lengths[text]
    home = mask.device
    return Packed(source.to(home), valid.to(home), places.to(home), texts.to(home), tuple(counts))
