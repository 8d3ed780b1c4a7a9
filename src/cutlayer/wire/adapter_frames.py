"""Frames of adapters: the tensors of many devices in one call, each in row-major order.

The layout is told in `codec`. All of them cross to the CPU, or from it, in one copy.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

import torch

from cutlayer.errors import FrameError
from cutlayer.settings.method import Quantizer
from cutlayer.wire import frame, quantize
from cutlayer.wire.body_parts import check_room
from cutlayer.wire.dequantize import CPU, dequantize_all
from cutlayer.wire.frame import DEFAULT_MAX_BYTES, Bytes
from cutlayer.wire.headers import AdapterHeader
from cutlayer.wire.messages import AdapterMessage
from cutlayer.wire.transfer import ToPack, as_sent, pack_all

_WHOLE = {16: Quantizer(bits=16), 32: Quantizer(bits=32)}


def encode_adapter(message: AdapterMessage, bits: Literal[16, 32]) -> bytes:
    """One frame with the adapter's tensors in float32, or rounded to bfloat16.

    Raises RunError for NaN or infinity, FrameError where the names exceed the header's limit.
    """
    return encode_adapters([message], bits)[0]


def encode_adapters(messages: Sequence[AdapterMessage], bits: Literal[16, 32]) -> list[bytes]:
    """A frame for each adapter; all cross to the CPU in one copy. Errors as in `encode_adapter`.

    Messages that hold the very same tensors share what is encoded of them.
    """
    unlike = {id(message.tensors): message for message in messages}
    named = [
        (f"adapter of device {message.device}, round {message.round}, tensor {name!r},", tensor)
        for message in unlike.values()
        for name, tensor in message.tensors.items()
    ]
    rest: Iterator[bytes] = iter(())
    if named:
        flat = as_sent(torch.cat([tensor.reshape(-1) for _, tensor in named])).view(-1, 1)
        counts = [tensor.numel() for _, tensor in named]
        whats = [what for what, _ in named]
        rest = iter(quantize.quantize_all(flat, counts, _WHOLE[bits], None, whats))
    bodies = {key: tuple(islice(rest, len(one.tensors))) for key, one in unlike.items()}
    frames: list[ToPack] = []
    for message in messages:
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in message.tensors.items())
        header = AdapterHeader(message.device, message.round, message.samples, bits, shapes)
        frames.append(("adapter", header, bodies[id(message.tensors)]))
    return pack_all(frames)


def decode_adapter(
    data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES, device: torch.device = CPU
) -> AdapterMessage:
    """The message of a frame of an adapter; its tensors are float32 and parts of one on `device`.

    max_bytes bounds the frame, and the tensors together. Raises FrameError.
    """
    header, body = frame.unpack(data, "adapter", AdapterHeader, max_bytes)
    sizes = [math.prod(shape) for _, shape in header.tensors]
    check_room(4 * sum(sizes), max_bytes)
    if sum(sizes) * header.bits // 8 != len(body):
        raise FrameError(
            f"the adapter's shapes declare {sum(sizes)} values of {header.bits} bits but the body "
            f"has {len(body)} bytes: have it sent again"
        )
    names = [name for name, _ in header.tensors]
    for name in names:
        if names.count(name) > 1:
            raise FrameError(f"the adapter's frame names {name!r} twice: have it sent again")
    found = dequantize_all([body], [sum(sizes)], 1, _WHOLE[header.bits], device=device)
    for fault in found.faults.values():
        raise fault
    parts = zip(header.tensors, torch.split(found.values.view(-1), sizes), strict=True)
    tensors = {name: part.view(shape) for (name, shape), part in parts}
    return AdapterMessage(header.device, header.round, header.samples, tensors)
