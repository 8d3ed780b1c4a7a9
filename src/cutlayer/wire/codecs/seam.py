"""The protocol of a codec of activations or gradients, and the rows that it is given.

A codec turns rows, one for each token that is sent, into a header and a body, and back. Messages,
masks, labels and frames are made in `wire.codec`.
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
    position of each token in its sample, from 0, or with token classes the class of each known
    token; `MERGED` for the token merged from those left out, or one that is not known; empty if the
    codec is not positional. what: names the rows in errors.
    """

    values: Tensor
    positions: Tensor
    what: str = "tensor"


MERGED = -1
"""The position of a token that was merged from several, and the class of one that is not known."""


TOKEN_CLASSES = 4093
"""Classes of known tokens: their numbers modulo this prime, so that the means of a large vocabulary
have bounds. Tokens of one class share a mean."""


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

    @property
    def token_classes(self) -> int:
        """How many classes of known tokens stand in place of positions; 0: none do."""

    def fit(self, samples: Sequence[Rows]) -> Self:
        """The codec fitted anew to `samples`; the same codec if there is nothing to fit.

        A newly fitted codec has the next version number, and its side information must reach the
        other side before it is used.
        """

    def side_information(self) -> bytes:
        """A frame with all that the other side needs besides the job; empty if it needs nothing.

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
        """The length in bytes that the body of such rows will have, without encoding any.

        Exact for a quantiser without compression; otherwise the mean under the fitted laws.
        """
