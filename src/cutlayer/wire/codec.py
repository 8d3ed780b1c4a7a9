"""The messages that cross the cut, and the frames they travel in.

Bodies, in order (see `frame` for the envelope; all bit streams are little-endian):

    activations  labels, ceil(log2(num_classes)) bits each; mask, 1 bit a token, if there is one;
                 the hidden states
    gradient     mask, if there is one; the gradient
    adapter      the tensors, each in row-major order, in the header's order

Hidden states and gradients are rows of D values: rotated if asked, quantised (see `quantize`),
then compressed if asked and if that is shorter. Rows that a mask marks as padding are not sent
and arrive as zeros. The header holds every setting, so the two sides need not share any.
Everything it declares is checked, against limits and against the body, before it is allocated.
Messages hold CPU tensors when decoded, whatever they held when encoded.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.errors import FrameError
from cutlayer.settings.method import Quantizer
from cutlayer.wire import entropy, frame, quantize, rotate
from cutlayer.wire.custom_levels import pack_levels, unpack_levels
from cutlayer.wire.frame import DEFAULT_MAX_BYTES, Bytes
from cutlayer.wire.frame_bytes import body_bytes, label_bits
from cutlayer.wire.headers import ActivationsHeader, AdapterHeader, GradientHeader, TensorHeader


@dataclass(frozen=True, eq=False)
class ActivationsMessage:
    """What a device sends up for one batch.

    hidden [B, T, D] float; mask [B, T] bool, False at padding, or None; labels [B] int64 below
    num_classes; device, round and step say where it belongs.
    """

    device: int
    round: int
    step: int
    hidden: Tensor
    mask: Tensor | None
    labels: Tensor
    num_classes: int


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
    """One frame with the batch's hidden states, mask and labels.

    rng: a CPU generator for stochastic rounding; rotation_seed: 0 to 2^63 - 1, sent along. Both
    are only used where the quantizer asks for them. Raises RunError for NaN or infinity.
    """
    B = len(message.hidden)
    labels = message.labels.detach().to("cpu", torch.int64).numpy()
    if labels.shape != (B,) or ((labels < 0) | (labels >= message.num_classes)).any():
        raise ValueError(f"labels must be {B} integers from 0 to num_classes - 1, not {labels}")
    what = f"activations of device {message.device}, round {message.round}, step {message.step},"
    header, rows = _encode_rows(message.hidden, message.mask, quantizer, rng, rotation_seed, what)
    return frame.pack(
        "activations",
        ActivationsHeader(
            message.device,
            message.round,
            message.step,
            _shape3(message.hidden),
            message.mask is not None,
            header,
            message.num_classes,
        ),
        _pack_labels(labels, message.num_classes) + rows,
    )


def decode_activations(data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> ActivationsMessage:
    """The message of a frame of activations.

    max_bytes bounds the frame, and the hidden states it unpacks to as float32; what is allocated
    on the way is a small multiple of it. Raises FrameError.
    """
    header, body = frame.unpack(data, "activations", ActivationsHeader, max_bytes)
    B = header.shape[0]
    size = -(-B * label_bits(header.num_classes) // 8)
    if size > len(body):
        raise _too_short()
    _check_room(B * (8 + label_bits(header.num_classes)), max_bytes)
    hidden, mask = _decode_rows(header, body[size:], max_bytes)
    labels = _unpack_labels(body[:size], B, header.num_classes)
    return ActivationsMessage(
        header.device, header.round, header.step, hidden, mask, labels, header.num_classes
    )


def encode_gradient(
    message: GradientMessage,
    quantizer: Quantizer,
    *,
    rng: torch.Generator | None = None,
    rotation_seed: int = 0,
) -> bytes:
    """One frame with the gradient and the loss; arguments as in `encode_activations`."""
    what = f"gradient for device {message.device}, round {message.round}, step {message.step},"
    header, rows = _encode_rows(message.gradient, message.mask, quantizer, rng, rotation_seed, what)
    return frame.pack(
        "gradient",
        GradientHeader(
            message.device,
            message.round,
            message.step,
            _shape3(message.gradient),
            message.mask is not None,
            header,
            float(message.loss),
        ),
        rows,
    )


def decode_gradient(data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> GradientMessage:
    """The message of a frame of gradients; limits and errors as in `decode_activations`."""
    header, body = frame.unpack(data, "gradient", GradientHeader, max_bytes)
    gradient, mask = _decode_rows(header, body, max_bytes)
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


def _encode_rows(
    x: Tensor,
    mask: Tensor | None,
    quantizer: Quantizer,
    rng: torch.Generator | None,
    rotation_seed: int,
    what: str,
) -> tuple[TensorHeader, bytes]:
    rows = _cpu(x).reshape(-1, x.shape[-1])
    head = b""
    if mask is not None:
        if mask.shape != x.shape[:2]:
            raise ValueError(f"mask {tuple(mask.shape)} does not fit tensor {tuple(x.shape)}")
        valid = mask.to("cpu", torch.bool).reshape(-1)
        head = np.packbits(valid.numpy(), bitorder="little").tobytes()
        rows = rows[valid]
    # Whole floats gain nothing from a rotation.
    rotation = rotation_seed if quantizer.rotate and quantizer.bits <= 8 else None
    if rotation is not None:
        rows = rotate.rotate(rows, rotation)
    packed = quantize.quantize(rows, quantizer, rng, what)
    shorter = entropy.compress(packed) if quantizer.entropy == "zstd" else None
    header = TensorHeader(
        quantizer.bits,  # type: ignore[arg-type]  # one of _Bits, by Quantizer's validator
        pack_levels(quantizer.levels, quantizer.bits),  # type: ignore[arg-type]  # or a known name
        quantizer.per,
        rotation,
        shorter is not None,
    )
    return header, head + (packed if shorter is None else shorter)


def _decode_rows(
    header: ActivationsHeader | GradientHeader, body: memoryview, max_bytes: int
) -> tuple[Tensor, Tensor | None]:
    B, T, D = header.shape
    _check_room(4 * B * T * D, max_bytes)
    valid = None
    count = B * T
    if header.masked:
        size = -(-B * T // 8)
        if size > len(body):
            raise _too_short()
        bits = np.unpackbits(np.frombuffer(body[:size], np.uint8), count=B * T, bitorder="little")
        valid = torch.from_numpy(bits.view(np.bool_))
        count = int(valid.sum())
        body = body[size:]
    tensor = header.tensor
    own, name = None, tensor.levels
    if isinstance(name, tuple):
        # In the body such levels lie as Gaussian ones do.
        own, name = unpack_levels(name, tensor.bits), "gaussian"
    quantizer = Quantizer(bits=tensor.bits, levels=name, per=tensor.per)
    size = body_bytes(count, D, quantizer)
    packed: bytes | memoryview = body
    if tensor.compressed:
        packed = entropy.decompress(body, size)
    elif len(body) != size:
        raise FrameError(
            f"the frame's header declares {size} bytes of tensor but the body has {len(body)}: "
            "have it sent again"
        )
    rows = quantize.dequantize(packed, count, D, quantizer, own)
    if tensor.rotation is not None:
        rows = rotate.unrotate(rows, tensor.rotation)
        if count:
            # Sums of values near float32's end, which only a forged frame holds, overflow.
            quantize.sound(rows)
    if valid is None:
        return rows.view(B, T, D), None
    full = torch.zeros(B * T, D)
    full[valid] = rows
    return full.view(B, T, D), valid.view(B, T)


def _check_room(needed: int, max_bytes: int) -> None:
    if needed > max_bytes:
        raise FrameError(
            f"the frame unpacks to {needed} bytes, above max_bytes {max_bytes}: raise it, or send "
            "smaller batches"
        )


def _too_short() -> FrameError:
    return FrameError("the frame's body is shorter than its header declares: have it sent again")


def _pack_labels(labels: NDArray[np.int64], num_classes: int) -> bytes:
    bits = labels[:, None] >> np.arange(label_bits(num_classes)) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()


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
