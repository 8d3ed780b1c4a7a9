"""The fields of the header of each kind of frame, in order, with the bounds of their values."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Size = Annotated[int, Meta(ge=1, le=2**31)]
_Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Bits = Literal[1, 2, 3, 4, 5, 6, 7, 8, 16, 32]
_Levels = Annotated[tuple[float, ...], Meta(min_length=2, max_length=256)]
_Name = Annotated[str, Meta(min_length=1, max_length=512)]
_Positive = Annotated[float, Meta(ge=1e-30, le=1e30)]
_Spread = Annotated[float, Meta(ge=0.05, le=100)]
_TokenBits = Annotated[float, Meta(ge=0, le=1e6)]
_Byte = Annotated[int, Meta(ge=0, le=255)]
_Sample = Annotated[int, Meta(ge=0, le=2**31)]
_Loss = Annotated[float, Meta(ge=0, le=1e6)]
_Shape = Annotated[tuple[_Size, ...], Meta(max_length=8)]


MAX_WIDTH = 4096
"""The widest activations whose reconstruction by a basis is exact in float64 (see `codecs.klt`)."""


MOST_SAMPLES = 2**31
"""The highest number of a sample in a device's data."""


class _Header(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """Base of the headers: written as bare arrays of their fields, extra fields refused."""


class TensorHeader(_Header, frozen=True):
    """How the rows of a tensor were encoded.

    levels: a name, or the sender's own levels as 2^bits rising numbers. rotation: the seed of the
    rotation, or None.
    """

    bits: _Bits
    levels: Literal["uniform", "gaussian"] | _Levels
    per: Literal["token", "tensor"]
    rotation: _Seed | None
    compressed: bool


class _StepHeader(_Header, frozen=True):
    """The device, round and step that a message belongs to; steps of a round count from 0."""

    device: _Count
    round: _Count
    step: _Count


class _BatchHeader(_StepHeader, frozen=True):
    """Header of the rows of one batch. shape: [B, T, D]; masked: the body has a mask of padding."""

    shape: tuple[_Size, _Size, _Size]
    masked: bool


class ActivationsHeader(_BatchHeader, frozen=True):
    """shape: [B, T, D]; masked: a mask of padding follows the labels."""

    tensor: TensorHeader
    num_classes: Annotated[int, Meta(ge=1, le=2**31)]


class GradientHeader(_BatchHeader, frozen=True):
    """shape: [B, T, D]; masked: a mask of padding stands first; loss: of the batch."""

    tensor: TensorHeader
    loss: float


class _FeatureRows(_StepHeader, frozen=True):
    """rows, width: n and D of the tokens' features."""

    rows: _Size
    width: _Size


class FeaturesHeader(_FeatureRows, frozen=True):
    """Header of hidden states that go down to the last blocks on a device."""

    tensor: TensorHeader


class FeatureGradientHeader(_FeatureRows, frozen=True):
    """Header of the gradient of such hidden states, on its way up; loss: of the batch."""

    tensor: TensorHeader
    loss: _Loss


class AdapterHeader(_Header, frozen=True):
    """tensors: names and shapes, in the order of the body."""

    device: _Count
    round: _Count
    samples: _Count
    bits: Literal[16, 32]
    tensors: tuple[tuple[_Name, _Shape], ...]


class KltHeader(_Header, frozen=True):
    """How rows were encoded by a fitted basis.

    version, fingerprint: of the basis. step: in units of the rows, after division by gain.
    gain: 1, or the RMS of the batch of gradients. coder, escapes: see `codecs.symbols`.
    """

    version: _Count
    fingerprint: _Seed
    step: _Positive
    gain: _Positive
    coder: Literal["range", "zstd", "plain"]
    escapes: _Count


class CodedActivationsHeader(_BatchHeader, frozen=True):
    """As `ActivationsHeader`, for a fitted codec.

    candidates: 0 if all tokens were sent, else the number N of tokens from which the kept ones were
    chosen; merged: the last token stands for the others.
    """

    candidates: Annotated[int, Meta(ge=0, le=2**20)]
    merged: bool
    coding: KltHeader
    num_classes: Annotated[int, Meta(ge=1, le=2**31)]


class CodedGradientHeader(_BatchHeader, frozen=True):
    """As `GradientHeader`, for a fitted codec."""

    coding: KltHeader
    loss: float


class CodedFeaturesHeader(_FeatureRows, frozen=True):
    """As `FeaturesHeader`, for a fitted codec."""

    coding: KltHeader


class CodedFeatureGradientHeader(_FeatureRows, frozen=True):
    """As `FeatureGradientHeader`, for a fitted codec."""

    coding: KltHeader
    loss: _Loss


class VisitHeader(_StepHeader, frozen=True):
    """Header of a visit. samples: numbers of the samples in the device's data. says: for each
    sample, the number of its frame's beginning in the body, from 1 on, or 0 if the sample is only
    named. begins: lengths of these beginnings. lengths: of the bodies of the samples sent."""

    samples: Annotated[tuple[_Sample, ...], Meta(min_length=1, max_length=2**16)]
    says: Annotated[tuple[_Count, ...], Meta(max_length=2**16)]
    begins: Annotated[tuple[_Count, ...], Meta(max_length=2**16)]
    lengths: Annotated[tuple[_Count, ...], Meta(max_length=2**16)]


class HeldHeader(_Header, frozen=True):
    """Header of a list of samples that the server holds. count: how many. room_bytes: the room that
    the server has for frames of further samples."""

    count: Annotated[int, Meta(ge=0, le=2**24)]
    room_bytes: _Count
    compressed: bool


class BasisHeader(_Header, frozen=True):
    """A fitted basis (see `codecs.basis`).

    version: counts up with every fit. width: D. prefix: the first tokens of a sample, which have
    components of their own. positions: P, the positions with a mean of their own.
    prefix_components, other_components: L of each kind. step: the fitted, finest step size.
    mean_unit, log2_unit: of the means and vectors. wide: vectors of int16 rather than int8.
    scaled: each token is divided by its size. per_batch: rows are divided by the RMS of their
    batch, and a token's size, in octaves, chooses its laws. size_centres, size_spreads: the law of
    sizes (see `codecs.token_scale`), for prefix tokens and others. token_bits: bits that the
    components of a token took when fitting, for prefix tokens and others. dithered: rounding is
    random and unbiased, without a dead zone.
    """

    version: _Count
    width: Annotated[int, Meta(ge=1, le=4096)]
    prefix: Annotated[int, Meta(ge=0, le=4096)]
    positions: Annotated[int, Meta(ge=0, le=2**16)]
    prefix_components: Annotated[int, Meta(ge=0, le=4096)]
    other_components: Annotated[int, Meta(ge=0, le=4096)]
    step: _Positive
    mean_unit: _Positive
    log2_unit: Annotated[int, Meta(ge=-64, le=32)]
    wide: bool
    scaled: bool
    size_centres: tuple[_Byte, _Byte]
    size_spreads: tuple[_Spread, _Spread]
    token_bits: tuple[_TokenBits, _TokenBits]
    per_batch: bool
    dithered: bool

    @property
    def patches_a_side(self) -> int:
        """Of the square grid whose patches are transformed together; 0: each is sent as it is."""
        return 0

    @property
    def token_classes(self) -> int:
        """Classes of known tokens with a mean of their own; 0: means are of positions."""
        return 0


class SpatialBasisHeader(BasisHeader, frozen=True):
    """A fitted basis that also transforms between the patches of a grid (see `codecs.spatial`).

    side: patches along each side of the grid.
    """

    side: Annotated[int, Meta(ge=2, le=256)]

    @property
    def patches_a_side(self) -> int:
        """The same as `side`."""
        return self.side


class TokenBasisHeader(BasisHeader, frozen=True):
    """A fitted basis whose means are those of tokens that both sides know (see `known_tokens`).

    Where other bases have positions, this one has classes of tokens, and `prefix` and `positions`
    are their number: known tokens have components of their own. classes: their number.
    """

    classes: Annotated[int, Meta(ge=1, le=4096)]

    @property
    def token_classes(self) -> int:
        """The same as `classes`."""
        return self.classes
