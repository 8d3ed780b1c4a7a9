"""What the header of each frame holds, in order, with the bounds it is checked against."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Size = Annotated[int, Meta(ge=1, le=2**31)]
_Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Bits = Literal[1, 2, 3, 4, 5, 6, 7, 8, 16, 32]
_Levels = Annotated[tuple[float, ...], Meta(min_length=2, max_length=256)]
_Name = Annotated[str, Meta(min_length=1, max_length=512)]
_Shape = Annotated[tuple[_Size, ...], Meta(max_length=8)]


class _Header(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """Base of the headers: written as bare arrays of their fields, extra fields refused."""


class TensorHeader(_Header, frozen=True):
    """How the rows of a tensor were encoded.

    levels: numbers are the sender's own, 2^bits that rise. rotation: its seed, or None.
    """

    bits: _Bits
    levels: Literal["uniform", "gaussian"] | _Levels
    per: Literal["token", "tensor"]
    rotation: _Seed | None
    compressed: bool


class ActivationsHeader(_Header, frozen=True):
    """shape: [B, T, D]; masked: a mask of padding follows the labels."""

    device: _Count
    round: _Count
    step: _Count
    shape: tuple[_Size, _Size, _Size]
    masked: bool
    tensor: TensorHeader
    num_classes: Annotated[int, Meta(ge=1, le=2**31)]


class GradientHeader(_Header, frozen=True):
    """shape: [B, T, D]; masked: a mask of padding stands first; loss: of the batch."""

    device: _Count
    round: _Count
    step: _Count
    shape: tuple[_Size, _Size, _Size]
    masked: bool
    tensor: TensorHeader
    loss: float


class AdapterHeader(_Header, frozen=True):
    """tensors: names and shapes, in the order of the body."""

    device: _Count
    round: _Count
    samples: _Count
    bits: Literal[16, 32]
    tensors: tuple[tuple[_Name, _Shape], ...]
