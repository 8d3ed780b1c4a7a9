"""The codec seam: what every codec of activations or gradients does, and what it is given.

A codec sees rows, one for each token that is sent. Messages, masks, labels and frames are the
business of `wire.codec`; a codec turns rows into a header and a body, and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """The tokens that one device sends for one batch, n of them.

    values: [n, D] float32, on the torch device that computes. positions: [n] int64 on the CPU, the
    place of each token in its sample, from 0; `MERGED` for the token that stands for all those left
    out; empty where the codec is not positional. what: names them in errors.
    """

    values: Tensor
    positions: Tensor
    what: str = "tensor"


MERGED = -1
"""The position of a token that was merged from several."""


@dataclass(frozen=True)
class Coded:
    """Rows as bytes: the codec's own header, and the body it describes."""

    header: msgspec.Struct
    body: bytes


class Codec(Protocol):
    """How rows of numbers cross the cut."""

    @property
    def positional(self) -> bool:
        """Whether the other side must know each token's position to decode it."""

    def fit(self, samples: Sequence[Rows]) -> Self:
        """The codec fitted anew to rows like those to come; itself where there is nothing to fit.

        A fitted codec has the next version, and its side information must travel before it is used.
        """

    def side_information(self) -> bytes:
        """A frame with all that the other side needs besides the job; empty where that is nothing.

        Its bytes count as traffic.
        """

    def encode(
        self, batch: Sequence[Rows], rngs: Sequence[torch.Generator] | None = None
    ) -> list[Coded]:
        """The rows of many devices, encoded in one call, in their order.

        rngs: a CPU generator a device, for codecs that round at random. Raises RunError for rows
        with NaN or infinity.
        """

    def decode(
        self, header: msgspec.Struct, body: memoryview, positions: Tensor, width: int
    ) -> Tensor:
        """The rows [n, width] of a header and body; positions [n] as in `Rows`.

        The caller bounds n * width. Raises FrameError for anything that `encode` did not make.
        """

    def expected_bytes(self, positions: Tensor, width: int) -> float:
        """How long the body of such rows will be, in bytes, without encoding any.

        Exact for a quantiser without compression; the mean under the fitted model else.
        """
