"""Devices of a network that are honest but for what they say: their messages and frames, edited."""

import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import pytest
import torch

from cutlayer.network.device import join as joining
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.messages import Hello, Message
from cutlayer.settings.method import Quantizer
from cutlayer.wire.adapter_frames import decode_adapter, encode_adapter
from cutlayer.wire.codec import decode_activations, encode_activations
from cutlayer.wire.frame import kind_of, pack, unpack
from cutlayer.wire.headers import ActivationsHeader
from cutlayer.wire.messages import ActivationsMessage, AdapterMessage
from cutlayer.wire.packing import label_bits

EditMessage = Callable[[Message], Message | None]
EditFrame = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Lie:
    """How one device's words are changed on their way out.

    message: what becomes of a message, None for nothing. activations, adapter: of a frame; None:
    no frame is sent. repeat: how often every message but the hello is sent.
    """

    message: EditMessage = lambda message: message
    activations: EditFrame | None = lambda frame: frame
    adapter: EditFrame = lambda frame: frame
    repeat: int = 1


def tell(monkeypatch: pytest.MonkeyPatch, lies: dict[int, Lie]) -> None:
    """Let the devices of these numbers lie from now on."""
    real = joining.connect

    async def connect(address: str, hello: Hello, *rest: Any) -> Connection:
        lie = lies.get(-1 if hello.number is None else hello.number)
        if lie is None:
            return await real(address, hello, *rest)
        said = lie.message(hello)
        assert isinstance(said, Hello)
        connection = await real(address, said, *rest)
        honest_tell, honest_send = connection.tell, connection.send

        async def tell(message: Message) -> None:
            for _ in range(lie.repeat):
                edited = lie.message(message)
                if edited is not None:
                    await honest_tell(edited)

        async def send(lane: Lane, frame: Any) -> None:
            edit = lie.adapter if kind_of(frame) == "adapter" else lie.activations
            if edit is not None:
                await honest_send(lane, edit(bytes(frame)))

        connection.tell, connection.send = tell, send  # type: ignore[method-assign]
        return connection

    monkeypatch.setattr(joining, "connect", connect)


def activations(edit: Callable[[ActivationsMessage], ActivationsMessage]) -> Lie:
    """A device that sends other activations than it computed."""

    def changed(frame: bytes) -> bytes:
        return encode_activations(
            edit(decode_activations(frame)), Quantizer(bits=32, entropy="none")
        )

    return Lie(activations=changed)


def adapter(edit: Callable[[AdapterMessage], AdapterMessage]) -> Lie:
    """A device that sends another adapter than it trained."""
    return Lie(adapter=lambda frame: encode_adapter(edit(decode_adapter(frame)), 32))


def scaled(factor: float) -> Lie:
    """A device whose adapter is this many times what it trained."""
    return adapter(
        lambda m: replace(m, tensors={name: t * factor for name, t in m.tensors.items()})
    )


def ended_with(value: float) -> EditFrame:
    """The last number of a frame of whole floats replaced, which an encoder would refuse."""

    def changed(frame: bytes) -> bytes:
        if kind_of(frame) == "activations":
            message = decode_activations(frame)
            frame = encode_activations(message, Quantizer(bits=32, entropy="none"))
        return mended(frame[:-4] + struct.pack("<f", value))

    return changed


def mended(frame: bytes) -> bytes:
    """A frame with the right checksum."""
    checksum = zlib.crc32(frame[22:], zlib.crc32(frame[:18]))
    return frame[:18] + struct.pack("<I", checksum) + frame[22:]


def beyond_classes(frame: bytes) -> bytes:
    """Activations whose labels are larger than the classes that the frame declares."""
    frame = encode_activations(decode_activations(frame), Quantizer(bits=32, entropy="none"))
    start = 22 + struct.unpack_from("<I", frame, 6)[0]
    return mended(frame[:start] + b"\xff\xff" + frame[start + 2 :])


def _plain(frame: bytes) -> bytes:
    """The activations of a frame in eight bits, which zstandard did not pack."""
    return encode_activations(decode_activations(frame), Quantizer(bits=8, entropy="none"))


def bomb(frame: bytes, *, declared: bool) -> bytes:
    """Activations of the right shape in a body that unpacks to a gigabyte.

    declared: the body says that it unpacks to what is due; else to the gigabyte that it does.
    """
    header, body = unpack(_plain(frame), "activations", ActivationsHeader)
    labels = -(-header.shape[0] * label_bits(header.num_classes) // 8)
    block, blocks = 2**17, 2**13
    size = len(body) - labels if declared else block * blocks
    # A zstandard frame by hand: its size in 4 bytes, then blocks of one byte, repeated.
    packed = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", size)
    for number in range(blocks):
        packed += (block << 3 | 1 << 1 | (number == blocks - 1)).to_bytes(3, "little") + b"\0"
    tensor = msgspec.structs.replace(header.tensor, compressed=True)
    header = msgspec.structs.replace(header, tensor=tensor)
    return pack("activations", header, bytes(body[:labels]) + packed)


def beyond_memory(frame: bytes) -> bytes:
    """Activations that declare 2^93 values in a hundred bytes."""
    header, _ = unpack(_plain(frame), "activations", ActivationsHeader)
    header = msgspec.structs.replace(header, shape=(2**31, 2**31, 2**31))
    return pack("activations", header, bytes(100))


FRAMES: dict[str, Lie] = {
    "NaN": Lie(activations=ended_with(math.nan)),
    "infinity": Lie(activations=ended_with(math.inf)),
    "3e38 everywhere": activations(
        lambda m: replace(m, hidden=torch.ones_like(m.hidden).cumsum(2).cos().sign() * 3e38)
    ),
    "another device": activations(lambda m: replace(m, device=0)),
    "another round": activations(lambda m: replace(m, round=m.round + 1)),
    "a step again": activations(lambda m: replace(m, step=max(0, m.step - 1))),
    "a step ahead": activations(lambda m: replace(m, step=m.step + 1)),
    "more classes": activations(lambda m: replace(m, num_classes=20, labels=m.labels + 10)),
    "labels beyond the classes": Lie(activations=beyond_classes),
    "one token": activations(lambda m: replace(m, hidden=m.hidden[:, :1])),
    "narrow": activations(lambda m: replace(m, hidden=m.hidden[:, :, :1])),
    "a mask": activations(lambda m: replace(m, mask=torch.ones(m.hidden.shape[:2]).bool())),
    "too many samples": activations(
        lambda m: replace(m, hidden=m.hidden.repeat(9, 1, 1), labels=m.labels.repeat(9))
    ),
    "garbage": Lie(activations=lambda frame: b"\x93CUT" + bytes(range(256)) * 20),
    "a gigabyte in little": Lie(activations=partial(bomb, declared=False)),
    "a gigabyte that says it is little": Lie(activations=partial(bomb, declared=True)),
    "2^93 values": Lie(activations=beyond_memory),
    "nothing": Lie(activations=lambda frame: b""),
    "half": Lie(activations=lambda frame: frame[: len(frame) // 2]),
    "a frame of another kind": Lie(
        activations=lambda frame: encode_adapter(AdapterMessage(2, 0, 1, {"a": torch.ones(1)}), 32)
    ),
}
UPLOADS: dict[str, Lie] = {
    "NaN": Lie(adapter=ended_with(math.nan)),
    "infinity": Lie(adapter=ended_with(math.inf)),
    "a million times": scaled(1e6),
    "1e30 times": scaled(1e30),
    "garbage": Lie(adapter=lambda frame: b"\x93CUT garbage"),
    "nothing": Lie(adapter=lambda frame: b""),
    "half": Lie(adapter=lambda frame: frame[: len(frame) // 2]),
    "other shapes": adapter(
        lambda m: replace(m, tensors={name: torch.ones(7) for name in m.tensors})
    ),
    "other names": adapter(lambda m: replace(m, tensors={"evil": torch.ones(3)})),
    "no tensors": adapter(lambda m: replace(m, tensors={})),
    "turned shapes": adapter(
        lambda m: replace(m, tensors={n: t.reshape(-1, 1) for n, t in m.tensors.items()})
    ),
    "another device": adapter(lambda m: replace(m, device=0)),
    "another round": adapter(lambda m: replace(m, round=m.round + 1)),
}
