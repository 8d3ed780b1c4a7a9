"""The frames between the server and devices that run the last blocks of the model.

Features, the server's hidden states, go down; the gradient of the loss in them, and the loss, come
up. Both are rows of D values, one for each token of the batch that is not padding, sample after
sample; each side knows these tokens from the activations. Body: the rows, encoded like rows of
activations (see `codec`), for many devices in one call.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutlayer.errors import FrameError
from cutlayer.settings.method import Quantizer
from cutlayer.wire import frame
from cutlayer.wire.body_parts import check_room
from cutlayer.wire.codecs.quantized import QuantizedCodec, decode_quantized_all
from cutlayer.wire.codecs.seam import Rows
from cutlayer.wire.dequantize import CPU
from cutlayer.wire.frame import DEFAULT_MAX_BYTES, Bytes
from cutlayer.wire.headers import FeatureGradientHeader, FeaturesHeader
from cutlayer.wire.transfer import wire_device


@dataclass(frozen=True, eq=False)
class FeaturesMessage:
    """The server's hidden states of a device's batch: rows [n, D] float, its tokens in order."""

    device: int
    round: int
    step: int
    rows: Tensor


@dataclass(frozen=True, eq=False)
class FeatureGradientMessage:
    """The gradient [n, D] of a batch's mean loss in the features of its tokens, and that loss."""

    device: int
    round: int
    step: int
    rows: Tensor
    loss: float


Message = FeaturesMessage | FeatureGradientMessage


def encode_features(
    messages: Sequence[Message],
    quantizer: Quantizer,
    rngs: Sequence[torch.Generator] | None = None,
    rotation_seed: int = 0,
) -> list[bytes]:
    """A frame for each device's features, or gradient of them, encoded in one call.

    rngs: a CPU generator a device, for stochastic rounding. Raises RunError for NaN or infinity.
    """
    batch = []
    for one in messages:
        what = f"{_named(one)} of device {one.device}, round {one.round}, step {one.step},"
        values = one.rows.detach().to(wire_device(one.rows.device), torch.float32)
        batch.append(Rows(values, torch.arange(len(values)), what))
    frames = []
    coded = QuantizedCodec(quantizer, rotation_seed).encode(batch, rngs)
    for one, rows in zip(messages, coded, strict=True):
        n, D = one.rows.shape
        start = (one.device, one.round, one.step, n, D, rows.header)
        header: FeaturesHeader | FeatureGradientHeader
        if isinstance(one, FeatureGradientMessage):
            header = FeatureGradientHeader(*start, float(one.loss))  # type: ignore[arg-type]
        else:
            header = FeaturesHeader(*start)  # type: ignore[arg-type]
        frames.append(frame.pack(_named(one), header, rows.body))
    return frames


@dataclass(frozen=True, eq=False)
class OpenedRows:
    """A frame of features, or of their gradient, that was checked and whose rows stay packed."""

    header: FeaturesHeader | FeatureGradientHeader
    body: memoryview

    @property
    def due(self) -> tuple[int, int, int]:
        """The device, round and step that its header names."""
        return self.header.device, self.header.round, self.header.step


def open_features(data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> OpenedRows:
    """A frame of features; limits and errors as in `decode_features`."""
    header, body = frame.unpack(data, "features", FeaturesHeader, max_bytes)
    check_room(4 * header.rows * header.width, max_bytes)
    return OpenedRows(header, body)


def open_feature_gradient(data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> OpenedRows:
    """A frame of the gradient of features; limits and errors as in `decode_features`."""
    header, body = frame.unpack(data, "feature gradient", FeatureGradientHeader, max_bytes)
    check_room(4 * header.rows * header.width, max_bytes)
    return OpenedRows(header, body)


def rows_of(frames: Sequence[OpenedRows], device: torch.device = CPU) -> list[Tensor | FrameError]:
    """The rows [n, D] of frames on `device`, decoded in one call, or the error of a faulty one."""
    alike: dict[int, list[int]] = defaultdict(list)
    for place, one in enumerate(frames):
        alike[one.header.width].append(place)
    found: dict[int, Tensor | FrameError] = {}
    for width, places in alike.items():
        decoded = decode_quantized_all(
            [frames[place].header.tensor for place in places],
            [frames[place].body for place in places],
            [frames[place].header.rows for place in places],
            width,
            wire_device(device),
        )
        found |= dict(zip(places, decoded, strict=True))
    rows = [found[place] for place in range(len(frames))]
    return [one if isinstance(one, FrameError) else one.to(device) for one in rows]


def decode_features(data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> FeaturesMessage:
    """The features of a frame, on the CPU.

    max_bytes bounds the frame, and the rows that it unpacks to as float32. Raises FrameError.
    """
    opened = open_features(data, max_bytes=max_bytes)
    return FeaturesMessage(*opened.due, _only(opened))


def decode_feature_gradient(
    data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES
) -> FeatureGradientMessage:
    """The gradient of a frame; limits and errors as in `decode_features`."""
    opened = open_feature_gradient(data, max_bytes=max_bytes)
    assert isinstance(opened.header, FeatureGradientHeader)
    return FeatureGradientMessage(*opened.due, _only(opened), opened.header.loss)


def _named(message: Message) -> str:
    """The kind of the message's frame."""
    return "feature gradient" if isinstance(message, FeatureGradientMessage) else "features"


def _only(opened: OpenedRows) -> Tensor:
    (rows,) = rows_of([opened])
    if isinstance(rows, FrameError):
        raise rows
    return rows
