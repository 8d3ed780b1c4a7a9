"""The frames between the server and the last blocks of a model, where devices run these.

Down go features, the server's hidden states; up comes the gradient of the loss in them, with the
loss. Both are rows of D values, one for each token of the batch that is no padding, sample after
sample: each side knows which tokens those are from the activations. Body: the rows, encoded as
those of activations are (see `codec`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutlayer.errors import FrameError
from cutlayer.settings.method import Quantizer
from cutlayer.wire import frame
from cutlayer.wire.codecs.quantized import QuantizedCodec, decode_quantized
from cutlayer.wire.codecs.seam import Rows
from cutlayer.wire.frame import DEFAULT_MAX_BYTES, Bytes
from cutlayer.wire.headers import FeatureGradientHeader, FeaturesHeader


@dataclass(frozen=True, eq=False)
class FeaturesMessage:
    """What the server made of a device's batch: rows [n, D] float, of its tokens in order."""

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
        values = one.rows.detach().to("cpu", torch.float32)
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


def decode_features(data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> FeaturesMessage:
    """The features of a frame.

    max_bytes bounds the frame, and the rows that it unpacks to as float32. Raises FrameError.
    """
    header, body = frame.unpack(data, "features", FeaturesHeader, max_bytes)
    return FeaturesMessage(header.device, header.round, header.step, _rows(header, body, max_bytes))


def decode_feature_gradient(
    data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES
) -> FeatureGradientMessage:
    """The gradient of a frame; limits and errors as in `decode_features`."""
    header, body = frame.unpack(data, "feature gradient", FeatureGradientHeader, max_bytes)
    rows = _rows(header, body, max_bytes)
    return FeatureGradientMessage(header.device, header.round, header.step, rows, header.loss)


def _named(message: Message) -> str:
    """The kind of its frame."""
    return "feature gradient" if isinstance(message, FeatureGradientMessage) else "features"


def _rows(
    header: FeaturesHeader | FeatureGradientHeader, body: memoryview, max_bytes: int
) -> Tensor:
    needed = 4 * header.rows * header.width
    if needed > max_bytes:
        raise FrameError(
            f"the frame unpacks to {needed} bytes, above max_bytes {max_bytes}: raise it, or send "
            "smaller batches"
        )
    return decode_quantized(header.tensor, body, header.rows, header.width)
