"""The messages that cross the cut, and the frames they travel in.

Bodies, in order (see `frame` for the envelope; all bit streams are little-endian):

    activations  labels, ceil(log2(num_classes)) bits each; mask, 1 bit a token, if there is one;
                 with a fitted codec, which tokens were kept, 1 bit a candidate, if not all were;
                 the hidden states
                 With a label for each token, those of the tokens sent stand behind the mask.
    gradient     mask, if there is one; the gradient
    adapter      the tensors, each in row-major order, in the header's order

Hidden states and gradients are rows of D values, which a codec encodes (see `codecs.seam`). Rows
that a mask marks as padding are not sent and arrive as zeros. The header of a quantised frame holds
every setting, so the two sides need not share any; that of a fitted codec names the basis.
Everything it declares is checked, against limits and against the body, before it is allocated.
Messages hold CPU tensors when decoded, whatever they held when encoded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.errors import FrameError
from cutlayer.settings.method import Quantizer
from cutlayer.wire import frame, quantize
from cutlayer.wire.activation_frames import Batch, activations_frame
from cutlayer.wire.codecs.quantized import QuantizedCodec, decode_quantized
from cutlayer.wire.codecs.seam import Codec, Rows
from cutlayer.wire.frame import DEFAULT_MAX_BYTES, Bytes
from cutlayer.wire.headers import (
    ActivationsHeader,
    AdapterHeader,
    CodedActivationsHeader,
    CodedGradientHeader,
    GradientHeader,
    KltHeader,
    TensorHeader,
)
from cutlayer.wire.packing import label_bits, pack_flags
from cutlayer.wire.places import Places, find_places, unpack_kept


@dataclass(frozen=True, eq=False)
class ActivationsMessage:
    """What a device sends up for one batch.

    hidden [B, T, D] float; mask [B, T] bool, False at padding, or None; labels int64 below
    num_classes, one for each sample [B] or for each token [B, T] (those of padding are not sent and
    arrive as 0); device, round and step say where it belongs. places: which tokens of a sample
    these are, None for all from the first on; only a fitted codec sends them.
    """

    device: int
    round: int
    step: int
    hidden: Tensor
    mask: Tensor | None
    labels: Tensor
    num_classes: int
    places: Places | None = None


@dataclass(frozen=True, eq=False)
class GradientMessage:
    """What the server sends back: the loss's gradient [B, T, D] in the received hidden states.

    loss: the batch's mean loss. mask: as the activations had it; padding is then not sent.
    """

    device: int
    round: int
    step: int
    gradient: Tensor
    loss: float
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class AdapterMessage:
    """The named tensors of an adapter, and the number of samples they were trained on."""

    device: int
    round: int
    samples: int
    tensors: dict[str, Tensor]


def encode_activations(
    message: ActivationsMessage,
    quantizer: Quantizer,
    *,
    rng: torch.Generator | None = None,
    rotation_seed: int = 0,
) -> bytes:
    """One quantised frame with the batch's hidden states, mask and labels.

    rng: a CPU generator for stochastic rounding; rotation_seed: 0 to 2^63 - 1, sent along. Both
    are only used where the quantizer asks for them. Raises RunError for NaN or infinity.
    """
    codec = QuantizedCodec(quantizer, rotation_seed)
    return encode_activations_with(codec, [message], None if rng is None else [rng])[0]


def encode_activations_with(
    codec: Codec,
    messages: Sequence[ActivationsMessage],
    rngs: Sequence[torch.Generator] | None = None,
) -> list[bytes]:
    """A frame for each of many devices' messages, encoded in one call; see `encode_activations`.

    rngs: a CPU generator a device, for codecs that round at random.
    """
    rows = []
    for message in messages:
        what = (
            f"activations of device {message.device}, round {message.round}, step {message.step},"
        )
        places = find_places(message.hidden, message.places)
        rows.append(_rows(message.hidden, message.mask, places, what))
    batches = [_batch_of(message) for message in messages]  # before anything is encoded
    return [
        activations_frame(batch, coded)
        for batch, coded in zip(batches, codec.encode(rows, rngs), strict=True)
    ]


def _batch_of(message: ActivationsMessage) -> Batch:
    """What a message says besides its activations."""
    mask, places = message.mask, message.places
    return Batch(
        message.device,
        message.round,
        message.step,
        _shape3(message.hidden),
        None if mask is None else mask.to("cpu", torch.bool).numpy(),
        _sent_labels(message),
        message.num_classes,
        message.labels.dim() == 2,
        None if places is None else places.kept.cpu().numpy(),
        0 if places is None else places.candidates,
        places is not None and places.merged,
    )


def decode_activations(
    data: Bytes, *, codec: Codec | None = None, max_bytes: int = DEFAULT_MAX_BYTES
) -> ActivationsMessage:
    """The message of a frame of activations.

    codec: the fitted one that frames may have been encoded with. max_bytes bounds the frame, and
    the hidden states it unpacks to as float32; what is allocated on the way is a small multiple of
    it. Raises FrameError.
    """
    header: ActivationsHeader | CodedActivationsHeader
    kind = frame.kind_of(data)
    if kind in ("coded activations", "coded token activations"):
        header, body = frame.unpack(data, kind, CodedActivationsHeader, max_bytes)
    else:
        due = kind if kind == "token activations" else "activations"
        header, body = frame.unpack(data, due, ActivationsHeader, max_bytes)
    B, T, _ = header.shape
    places = None
    if kind.endswith("token activations"):
        valid, body = _unpack_mask(header, body, max_bytes)
        labels, body = _unpack_token_labels(header, valid, body, max_bytes)
    else:
        labels, body = _take_labels(body, B, header.num_classes, max_bytes)
        valid, body = _unpack_mask(header, body, max_bytes)
    if isinstance(header, CodedActivationsHeader):
        if header.candidates:
            _check_room(8 * B * header.candidates, max_bytes)
            places, body = unpack_kept(body, B, T, header.candidates, header.merged)
        elif header.merged:
            raise FrameError("the frame merges tokens but keeps all of them: have it sent again")
    hidden, mask = _decode_rows(header, valid, places, body, codec)
    return ActivationsMessage(
        header.device, header.round, header.step, hidden, mask, labels, header.num_classes, places
    )


def encode_gradient(
    message: GradientMessage,
    quantizer: Quantizer,
    *,
    rng: torch.Generator | None = None,
    rotation_seed: int = 0,
) -> bytes:
    """One quantised frame with the gradient and the loss; arguments as in `encode_activations`."""
    codec = QuantizedCodec(quantizer, rotation_seed)
    return encode_gradients_with(codec, [message], None if rng is None else [rng])[0]


def encode_gradients_with(
    codec: Codec,
    messages: Sequence[GradientMessage],
    rngs: Sequence[torch.Generator] | None = None,
) -> list[bytes]:
    """A frame for each of many devices' gradients, encoded in one call with one step size."""
    batch = []
    for message in messages:
        what = f"gradient for device {message.device}, round {message.round}, step {message.step},"
        places = find_places(message.gradient, None)
        batch.append(_rows(message.gradient, message.mask, places, what))
    frames = []
    for message, coded in zip(messages, codec.encode(batch, rngs), strict=True):
        start = (message.device, message.round, message.step, _shape3(message.gradient))
        masked, loss = message.mask is not None, float(message.loss)
        body = _pack_mask(message.gradient, message.mask) + coded.body
        if isinstance(coded.header, KltHeader):
            coded_header = CodedGradientHeader(*start, masked, coded.header, loss)
            frames.append(frame.pack("coded gradient", coded_header, body))
        else:
            assert isinstance(coded.header, TensorHeader)
            header = GradientHeader(*start, masked, coded.header, loss)
            frames.append(frame.pack("gradient", header, body))
    return frames


def decode_gradient(
    data: Bytes, *, codec: Codec | None = None, max_bytes: int = DEFAULT_MAX_BYTES
) -> GradientMessage:
    """The message of a frame of gradients; limits and errors as in `decode_activations`."""
    header: GradientHeader | CodedGradientHeader
    if frame.kind_of(data) == "coded gradient":
        header, body = frame.unpack(data, "coded gradient", CodedGradientHeader, max_bytes)
    else:
        header, body = frame.unpack(data, "gradient", GradientHeader, max_bytes)
    valid, body = _unpack_mask(header, body, max_bytes)
    gradient, mask = _decode_rows(header, valid, None, body, codec)
    return GradientMessage(header.device, header.round, header.step, gradient, header.loss, mask)


def encode_adapter(message: AdapterMessage, bits: Literal[16, 32]) -> bytes:
    """One frame with the adapter's tensors in float32, or rounded to bfloat16.

    Raises RunError for NaN or infinity, FrameError where the names exceed the header's limit.
    """
    quantizer = Quantizer(bits=bits)
    what = f"adapter of device {message.device}, round {message.round},"
    parts = [
        quantize.quantize(_cpu(tensor).reshape(1, -1), quantizer, what=f"{what} tensor {name!r},")
        for name, tensor in message.tensors.items()
    ]
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in message.tensors.items())
    header = AdapterHeader(message.device, message.round, message.samples, bits, shapes)
    return frame.pack("adapter", header, b"".join(parts))


def decode_adapter(data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> AdapterMessage:
    """The message of a frame of an adapter; its tensors are float32.

    max_bytes bounds the frame, and the tensors together. Raises FrameError.
    """
    header, body = frame.unpack(data, "adapter", AdapterHeader, max_bytes)
    sizes = [math.prod(shape) for _, shape in header.tensors]
    _check_room(4 * sum(sizes), max_bytes)
    if sum(sizes) * header.bits // 8 != len(body):
        raise FrameError(
            f"the adapter's shapes declare {sum(sizes)} values of {header.bits} bits but the body "
            f"has {len(body)} bytes: have it sent again"
        )
    quantizer = Quantizer(bits=header.bits)
    tensors: dict[str, Tensor] = {}
    start = 0
    for (name, shape), size in zip(header.tensors, sizes, strict=True):
        if name in tensors:
            raise FrameError(f"the adapter's frame names {name!r} twice: have it sent again")
        stop = start + size * header.bits // 8
        tensors[name] = quantize.dequantize(body[start:stop], 1, size, quantizer).view(shape)
        start = stop
    return AdapterMessage(header.device, header.round, header.samples, tensors)


def _cpu(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float32)


def _shape3(x: Tensor) -> tuple[int, int, int]:
    B, T, D = x.shape
    return B, T, D


_AnyHeader = ActivationsHeader | GradientHeader | CodedActivationsHeader | CodedGradientHeader


def _rows(x: Tensor, mask: Tensor | None, positions: Tensor, what: str) -> Rows:
    """The rows of x [B, T, D] that are sent, and their positions; positions: [B, T]."""
    rows, places = _cpu(x).reshape(-1, x.shape[-1]), positions.reshape(-1)
    if mask is not None:
        if mask.shape != x.shape[:2]:
            raise ValueError(f"mask {tuple(mask.shape)} does not fit tensor {tuple(x.shape)}")
        valid = mask.to("cpu", torch.bool).reshape(-1)
        rows, places = rows[valid], places[valid]
    return Rows(rows, places, what)


def _pack_mask(x: Tensor, mask: Tensor | None) -> bytes:
    if mask is None:
        return b""
    return pack_flags(mask.to("cpu", torch.bool).numpy())


def _unpack_mask(
    header: _AnyHeader, body: memoryview, max_bytes: int
) -> tuple[Tensor | None, memoryview]:
    """Which of the B T tokens are in the body (None: all), and what follows the mask."""
    B, T, D = header.shape
    _check_room(4 * B * T * D, max_bytes)
    if not header.masked:
        return None, body
    size = -(-B * T // 8)
    if size > len(body):
        raise _too_short()
    bits = np.unpackbits(np.frombuffer(body[:size], np.uint8), count=B * T, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_)), body[size:]


def _decode_rows(
    header: _AnyHeader,
    valid: Tensor | None,
    places: Places | None,
    body: memoryview,
    codec: Codec | None,
) -> tuple[Tensor, Tensor | None]:
    B, T, D = header.shape
    count = B * T if valid is None else int(valid.sum())
    if isinstance(header, ActivationsHeader | GradientHeader):
        rows = decode_quantized(header.tensor, body, count, D)
    elif codec is None or not codec.positional:
        raise FrameError(
            f"the frame needs version {header.coding.version} of a basis, and none was received: "
            "send the basis first"
        )
    else:
        # Whatever a positional codec allocates for positions is within what hidden states take.
        positions = find_places(torch.empty(B, T, 0), places).reshape(-1)
        rows = codec.decode(
            header.coding, body, positions if valid is None else positions[valid], D
        )
    if valid is None:
        return rows.view(B, T, D), None
    full = torch.zeros(B * T, D)
    full[valid] = rows
    return full.view(B, T, D), valid.view(B, T)


def _sent_labels(message: ActivationsMessage) -> NDArray[np.int64]:
    """The labels that are sent, one after another."""
    B, T, _ = message.hidden.shape
    held = message.labels.detach().to("cpu", torch.int64)
    if tuple(held.shape) not in ((B,), (B, T)):
        raise ValueError(f"labels must be {B} or {B} x {T} integers, not {tuple(held.shape)}")
    if held.dim() == 2 and message.mask is not None:
        held = held[message.mask.to("cpu", torch.bool)]
    return held.reshape(-1).numpy()


def _check_room(needed: int, max_bytes: int) -> None:
    if needed > max_bytes:
        raise FrameError(
            f"the frame unpacks to {needed} bytes, above max_bytes {max_bytes}: raise it, or send "
            "smaller batches"
        )


def _too_short() -> FrameError:
    return FrameError("the frame's body is shorter than its header declares: have it sent again")


def _take_labels(
    body: memoryview, count: int, num_classes: int, max_bytes: int
) -> tuple[Tensor, memoryview]:
    """The first `count` labels of a body, and what follows them."""
    size = -(-count * label_bits(num_classes) // 8)
    if size > len(body):
        raise _too_short()
    _check_room(count * (8 + label_bits(num_classes)), max_bytes)
    return _unpack_labels(body[:size], count, num_classes), body[size:]


def _unpack_token_labels(
    header: ActivationsHeader | CodedActivationsHeader,
    valid: Tensor | None,
    body: memoryview,
    max_bytes: int,
) -> tuple[Tensor, memoryview]:
    """The label of each token [B, T], 0 for padding, and what follows in the body."""
    B, T, _ = header.shape
    count = B * T if valid is None else int(valid.sum())
    sent, body = _take_labels(body, count, header.num_classes, max_bytes)
    if valid is None:
        return sent.view(B, T), body
    labels = torch.zeros(B * T, dtype=torch.int64)
    labels[valid] = sent
    return labels.view(B, T), body


def _unpack_labels(data: memoryview, count: int, num_classes: int) -> Tensor:
    width = label_bits(num_classes)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width, bitorder="little")
    labels = np.zeros(count, np.int64)
    for place, column in enumerate(bits.reshape(count, width).T):
        labels |= column.astype(np.int64) << place
    if (labels >= num_classes).any():
        raise FrameError(
            f"the frame holds label {labels.max()}, but declares {num_classes} classes: have it "
            "sent again"
        )
    return torch.from_numpy(labels)
