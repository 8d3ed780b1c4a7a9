"""The frames between the server and devices that run the last blocks of the model.

Down go features, the server's hidden states; up comes the gradient of the loss in them, with the
loss. Both are rows of D values, one for each token of the batch that is no padding and, where the
activations mark tokens as learnt, is marked; sample after sample: each side knows which tokens
those are from the activations. Body: the rows, encoded as
those of activations are (see `codec`), for many devices in one call. A fitted codec takes them a
device at a time, so that no step size depends on which devices share a pass.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cutlayer.errors import FrameError
from cutlayer.wire import frame
from cutlayer.wire.body_parts import check_room
from cutlayer.wire.codecs.quantized import decode_quantized_all
from cutlayer.wire.codecs.seam import Codec, Coded, Rows
from cutlayer.wire.dequantize import CPU
from cutlayer.wire.frame import DEFAULT_MAX_BYTES, Bytes
from cutlayer.wire.headers import (
    CodedFeatureGradientHeader,
    CodedFeaturesHeader,
    FeatureGradientHeader,
    FeaturesHeader,
    KltHeader,
    TensorHeader,
)
from cutlayer.wire.transfer import to_device, wire_device

_NOWHERE = torch.arange(0)


@dataclass(frozen=True, eq=False)
class FeaturesMessage:
    """What the server made of a device's batch: rows [n, D] float, of its tokens in order.

    positions: [n] int64, the place of each in its sample, for fitted codecs (see `seam.Rows`).
    """

    device: int
    round: int
    step: int
    rows: Tensor
    positions: Tensor = field(default=_NOWHERE, kw_only=True)


@dataclass(frozen=True, eq=False)
class FeatureGradientMessage:
    """The gradient [n, D] of a batch's mean loss in the features of its tokens, and that loss.

    positions: as in `FeaturesMessage`.
    """

    device: int
    round: int
    step: int
    rows: Tensor
    loss: float
    positions: Tensor = field(default=_NOWHERE, kw_only=True)


Message = FeaturesMessage | FeatureGradientMessage


def encode_features(
    messages: Sequence[Message], codec: Codec, rngs: Sequence[torch.Generator] | None = None
) -> list[bytes]:
    """A frame for each device's features, or gradient of them.

    rngs: a CPU generator a device, for stochastic rounding. Raises RunError for NaN or infinity.
    """
    batch = []
    for one in messages:
        kind = "feature gradient" if isinstance(one, FeatureGradientMessage) else "features"
        what = f"{kind} of device {one.device}, round {one.round}, step {one.step},"
        values = one.rows.detach().to(wire_device(one.rows.device), torch.float32)
        batch.append(Rows(values, one.positions, what))
    if codec.positional:
        coded = [
            codec.encode([rows], rngs and [rngs[place]])[0] for place, rows in enumerate(batch)
        ]
    else:
        coded = codec.encode(batch, rngs)
    return [_frame(*one) for one in zip(messages, coded, strict=True)]


def _frame(message: Message, coded: Coded) -> bytes:
    n, D = message.rows.shape
    start, own = (message.device, message.round, message.step, n, D), coded.header
    if isinstance(message, FeatureGradientMessage):
        loss = float(message.loss)
        if isinstance(own, KltHeader):
            up = CodedFeatureGradientHeader(*start, own, loss)
            return frame.pack("coded feature gradient", up, coded.body)
        assert isinstance(own, TensorHeader)
        return frame.pack("feature gradient", FeatureGradientHeader(*start, own, loss), coded.body)
    if isinstance(own, KltHeader):
        return frame.pack("coded features", CodedFeaturesHeader(*start, own), coded.body)
    assert isinstance(own, TensorHeader)
    return frame.pack("features", FeaturesHeader(*start, own), coded.body)


@dataclass(frozen=True, eq=False)
class OpenedRows:
    """A frame of features, or of their gradient, that was checked and whose rows stay packed."""

    header: (
        FeaturesHeader | FeatureGradientHeader | CodedFeaturesHeader | CodedFeatureGradientHeader
    )
    body: memoryview

    @property
    def due(self) -> tuple[int, int, int]:
        """The device, round and step that its header names."""
        return self.header.device, self.header.round, self.header.step

    @property
    def loss(self) -> float:
        """Of the batch, as a gradient of features says it."""
        assert isinstance(self.header, FeatureGradientHeader | CodedFeatureGradientHeader)
        return self.header.loss


def open_features(data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> OpenedRows:
    """A frame of features; limits and errors as in `decode_features`."""
    opened: OpenedRows
    if frame.kind_of(data) == "coded features":
        opened = OpenedRows(*frame.unpack(data, "coded features", CodedFeaturesHeader, max_bytes))
    else:
        opened = OpenedRows(*frame.unpack(data, "features", FeaturesHeader, max_bytes))
    return _with_room(opened, max_bytes)


def open_feature_gradient(data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> OpenedRows:
    """A frame of the gradient of features; limits and errors as in `decode_features`."""
    kind = "coded feature gradient"
    opened: OpenedRows
    if frame.kind_of(data) == kind:
        opened = OpenedRows(*frame.unpack(data, kind, CodedFeatureGradientHeader, max_bytes))
    else:
        kind = "feature gradient"
        opened = OpenedRows(*frame.unpack(data, kind, FeatureGradientHeader, max_bytes))
    return _with_room(opened, max_bytes)


def _with_room(opened: OpenedRows, max_bytes: int) -> OpenedRows:
    check_room(4 * opened.header.rows * opened.header.width, max_bytes)
    return opened


def rows_of(
    frames: Sequence[OpenedRows],
    positions: Sequence[Tensor],
    codec: Codec | None = None,
    device: torch.device = CPU,
) -> list[Tensor | FrameError]:
    """The rows [n, D] of frames on `device`, decoded in one call, or what is wrong with one.

    positions: of the tokens that are due in each (see `FeaturesMessage`); codec: the fitted one
    that frames may have been encoded with.
    """
    alike: dict[int, list[int]] = defaultdict(list)
    found: dict[int, Tensor | FrameError] = {}
    for place, one in enumerate(frames):
        if isinstance(one.header, FeaturesHeader | FeatureGradientHeader):
            alike[one.header.width].append(place)
        else:
            found[place] = _decode_fitted(one, one.header.coding, positions[place], codec)
    for width, places in alike.items():
        decoded = decode_quantized_all(
            [frames[place].header.tensor for place in places],  # type: ignore[union-attr]
            [frames[place].body for place in places],
            [frames[place].header.rows for place in places],
            width,
            wire_device(device),
        )
        found |= dict(zip(places, decoded, strict=True))
    rows = [found[place] for place in range(len(frames))]
    return [one if isinstance(one, FrameError) else to_device(one, device) for one in rows]


def _decode_fitted(
    one: OpenedRows, coding: KltHeader, positions: Tensor, codec: Codec | None
) -> Tensor | FrameError:
    """The rows of a frame that a fitted codec encoded."""
    if codec is None or not codec.positional:
        return FrameError(
            f"the frame needs version {coding.version} of a basis, and none was received: send the "
            "basis first"
        )
    if len(positions) != one.header.rows:
        return FrameError(
            f"the frame has {one.header.rows} tokens where {len(positions)} are due: run the same "
            "job on both sides"
        )
    try:
        return codec.decode(coding, one.body, positions, one.header.width)
    except FrameError as fault:
        return fault


def decode_features(
    data: Bytes,
    *,
    codec: Codec | None = None,
    positions: Tensor = _NOWHERE,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> FeaturesMessage:
    """The features of a frame, on the CPU; codec, positions: see `rows_of`.

    max_bytes bounds the frame, and the rows that it unpacks to as float32. Raises FrameError.
    """
    opened = open_features(data, max_bytes=max_bytes)
    rows = _only(opened, codec, positions)
    return FeaturesMessage(*opened.due, rows, positions=positions)


def decode_feature_gradient(
    data: Bytes,
    *,
    codec: Codec | None = None,
    positions: Tensor = _NOWHERE,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> FeatureGradientMessage:
    """The gradient of a frame; arguments and errors as in `decode_features`."""
    opened = open_feature_gradient(data, max_bytes=max_bytes)
    rows = _only(opened, codec, positions)
    return FeatureGradientMessage(*opened.due, rows, opened.loss, positions=positions)


def _only(opened: OpenedRows, codec: Codec | None, positions: Tensor) -> Tensor:
    (rows,) = rows_of([opened], [positions], codec)
    if isinstance(rows, FrameError):
        raise rows
    return rows
