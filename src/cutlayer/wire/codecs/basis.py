"""The side information of the `klt` codec, which both ends must share, and its frame.

Body of the frame, little-endian, as one zstandard frame where that is shorter:

    means      [P + 1, D] int32 in units of mean_unit, as four planes of bytes: the mean at each
               position from 0, then that of all tokens after the prefix
    then for the prefix tokens and for the others, L components each:
    shifts     [L] bytes, at most MAX_SHIFT
    scales     [K, L] bytes: the Laplace scale (see `laws`), in units of the step, in each band
    reaches    [K, L] bytes: the largest magnitude met when fitting, coded like the scales
    vectors    [L, D] int8 or int16: component i adds vector 2^(log2_unit - shift) times its value

There is one band (K = 1), but of the patches of a spatial basis as many as `spatial.bands` counts.
A token basis has means and components of classes of known tokens where others have those of
positions and of the tokens of the prefix.

The vectors are whole numbers and reconstruction is exact arithmetic (see `klt`), so that the two
ends hold the same numbers to the last bit, on any machine.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cutlayer.errors import FrameError
from cutlayer.wire import entropy, frame
from cutlayer.wire.codecs import spatial
from cutlayer.wire.codecs.laws import Array, Codes, from_codes
from cutlayer.wire.frame import DEFAULT_MAX_BYTES, Bytes
from cutlayer.wire.headers import BasisHeader, SpatialBasisHeader, TokenBasisHeader

MAX_SHIFT = 4
_KINDS: dict[type[BasisHeader], str] = {
    BasisHeader: "basis",
    SpatialBasisHeader: "spatial basis",
    TokenBasisHeader: "token basis",
}


@dataclass(frozen=True, eq=False)
class Components:
    """The components of one kind of tokens, in falling order of their largest scale.

    shifts: [L]. scales, reaches: [K, L], in each band. vectors: [L, D].
    """

    shifts: Codes
    scales: Codes
    reaches: Codes
    vectors: NDArray[np.int16]

    @property
    def count(self) -> int:
        """L, the number of components."""
        return len(self.shifts)

    @cached_property
    def scale_steps(self) -> Array:
        """Laplace scales in fitted steps [K, L]."""
        return from_codes(self.scales)

    @cached_property
    def reach_steps(self) -> Array:
        """Largest magnitudes met when fitting, in fitted steps [K, L]."""
        return from_codes(self.reaches)

    @cached_property
    def whole(self) -> Array:
        """The vectors as whole numbers [L, D], in units of 2^(log2_unit - MAX_SHIFT)."""
        return np.ldexp(self.vectors.astype(np.float64), MAX_SHIFT - self.shifts[:, None])

    @cached_property
    def largest_sum(self) -> float:
        """The largest sum of magnitudes that `whole` has in a channel."""
        return float(np.abs(self.whole).sum(0).max(initial=0.0))


@dataclass(frozen=True, eq=False)
class Basis:
    """A fitted `klt` codec.

    head: sizes and settings (see `headers.BasisHeader`). means: [P + 1, D] whole numbers.
    prefix, others: the components of the first `head.prefix` tokens of a sample, and of the rest.
    """

    head: BasisHeader
    means: NDArray[np.int32]
    prefix: Components
    others: Components

    @cached_property
    def frame(self) -> bytes:
        """The side information, as a frame of kind `basis`."""
        planes = self.means.astype("<i4").view(np.uint8).reshape(-1, 4).T.tobytes()
        dtype = "<i2" if self.head.wide else "<i1"
        parts = [planes]
        for group in (self.prefix, self.others):
            parts += [group.shifts.tobytes(), group.scales.tobytes(), group.reaches.tobytes()]
            parts.append(group.vectors.astype(dtype).tobytes())
        plain = b"".join(parts)
        packed = entropy.compress(plain)
        return frame.pack(_KINDS[type(self.head)], self.head, plain if packed is None else packed)

    @cached_property
    def fingerprint(self) -> int:
        """A hash of 63 bits that differs from that of any other basis."""
        return int.from_bytes(hashlib.sha256(self.frame).digest()[:8], "little") >> 1


def read_basis(data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Basis:
    """The basis of a frame; max_bytes bounds the frame, and what it unpacks to.

    Raises FrameError for a frame that holds no sound basis.
    """
    named = frame.kind_of(data)
    header = next((header for header, kind in _KINDS.items() if kind == named), BasisHeader)
    head, body = frame.unpack(data, _KINDS[header], header, max_bytes)
    if isinstance(head, SpatialBasisHeader):
        _check_spatial(head)
    if isinstance(head, TokenBasisHeader):
        _check_tokens(head)
    D, P = head.width, head.positions
    bands = (1, spatial.count(head.patches_a_side))
    lengths = (head.prefix_components, head.other_components)
    if max(lengths) > D:
        raise FrameError(
            f"the basis has {max(lengths)} components for {D} channels: have it sent again"
        )
    value = 2 if head.wide else 1
    size = 4 * (P + 1) * D
    size += sum(L * (1 + 2 * K + value * D) for K, L in zip(bands, lengths, strict=True))
    # In use, a number of the means takes four bytes, and one of the vectors eight.
    room = 4 * (P + 1) * D + 8 * sum(lengths) * D
    if room > max_bytes:
        raise FrameError(
            f"the basis unpacks to {room} bytes, above max_bytes {max_bytes}: raise it, or fit "
            "fewer positions"
        )
    plain: bytes | memoryview = body
    if len(body) != size:
        plain = entropy.decompress(body, size)
    stop = 4 * (P + 1) * D
    planes = np.frombuffer(plain[:stop], np.uint8).reshape(4, -1)
    means = np.ascontiguousarray(planes.T).view("<i4").reshape(P + 1, D).astype(np.int32)
    groups = []
    for K, L in zip(bands, lengths, strict=True):
        lines = (1 + 2 * K) * L
        laws = np.frombuffer(plain[stop : stop + lines], np.uint8).reshape(1 + 2 * K, L)
        shifts, scales, reaches = laws[0], laws[1 : 1 + K], laws[1 + K :]
        stop += lines
        stored = np.frombuffer(plain[stop : stop + value * L * D], f"<i{value}")
        stop += value * L * D
        if L and shifts.max() > MAX_SHIFT:
            raise FrameError(
                f"the basis shifts a vector by {shifts.max()} bits, above {MAX_SHIFT}: have it "
                "sent again"
            )
        groups.append(Components(shifts, scales, reaches, stored.reshape(L, D).astype(np.int16)))
    return Basis(head, means, *groups)


def _check_spatial(head: BasisHeader) -> None:
    if head.scaled or head.per_batch or head.dithered:
        raise FrameError(
            "the basis transforms between patches and scales tokens or dithers, which no fit "
            "makes: have it sent again"
        )
    if head.positions != head.prefix + head.patches_a_side**2:
        raise FrameError(
            f"the basis has means for {head.positions} positions where {head.prefix} tokens and a "
            f"grid of {head.patches_a_side} patches a side have "
            f"{head.prefix + head.patches_a_side**2}: have it sent again"
        )


def _check_tokens(head: TokenBasisHeader) -> None:
    if not head.prefix == head.positions == head.classes or head.per_batch or head.dithered:
        raise FrameError(
            f"the basis has {head.classes} classes of tokens, means for {head.positions} of them "
            f"and components for {head.prefix}, or it is one of gradients, which no fit makes: "
            "have it sent again"
        )
