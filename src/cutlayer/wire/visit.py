"""Frames for samples that the server may already hold: a device names these and sends the others.

A visit holds the activations of one batch, sample by sample: for every sample that the server does
not hold, a frame of activations of that one sample, which the server will keep. Most of these
frames begin alike, so each different beginning (the kind in one byte, and the header) is sent once.
Body: the beginnings, then the bodies of the samples that are sent, in order. A frame of kind `held`
tells a device which of its samples the server holds: the differences between their rising numbers
as little-endian uint32, compressed by zstandard if that is shorter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cutlayer.errors import FrameError
from cutlayer.wire import entropy, frame
from cutlayer.wire.frame import DEFAULT_MAX_BYTES, Bytes
from cutlayer.wire.headers import MOST_SAMPLES, HeldHeader, VisitHeader


@dataclass(frozen=True)
class Visit:
    """One batch of a device.

    frames: by the sample's number in the device's data, in the order of the batch; None for a
    sample that is only named, since the server holds it.
    """

    device: int
    round: int
    step: int
    frames: Mapping[int, bytes | None]


@dataclass(frozen=True)
class Held:
    """samples: the numbers of a device's samples that the server holds. room_bytes: the room that
    the server has for frames of further samples in this round."""

    samples: frozenset[int]
    room_bytes: int


def encode_visit(visit: Visit) -> bytes:
    """The frame of a visit."""
    begins: dict[bytes, int] = {}
    says, bodies = [], []
    for one in visit.frames.values():
        if one is None:
            says.append(0)
            continue
        said, body = frame.take_apart(one)
        says.append(begins.setdefault(said, len(begins) + 1))
        bodies.append(body)
    header = VisitHeader(
        visit.device,
        visit.round,
        visit.step,
        tuple(visit.frames),
        tuple(says),
        tuple(map(len, begins)),
        tuple(map(len, bodies)),
    )
    return frame.pack("visit", header, b"".join([*begins, *bodies]))


def decode_visit(data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Visit:
    """The visit of a frame; the frames of its samples are not checked. Raises FrameError."""
    header, body = frame.unpack(data, "visit", VisitHeader, max_bytes)
    count, sent = len(header.samples), [place for place in header.says if place]
    declared = sum(header.begins) + sum(header.lengths)
    sound = (
        len(set(header.samples)) == count == len(header.says)
        and len(sent) == len(header.lengths)
        and max(sent, default=0) <= len(header.begins)
        and min(header.begins, default=1) > 0
        and declared == len(body)
    )
    if not sound:
        raise FrameError(
            f"the frame names {count} samples, of which it declares {declared} bytes, but its body "
            f"has {len(body)}, or it names one twice: have it sent again"
        )
    # Every frame is made whole again, so a beginning takes room for each frame that names it.
    whole = sum(header.begins[place - 1] for place in sent) + sum(header.lengths)
    if whole > max_bytes:
        raise FrameError(
            f"the frames of the visit take {whole} bytes, above max_bytes {max_bytes}: raise it, "
            "or send smaller batches"
        )
    parts, start = [], 0
    for length in (*header.begins, *header.lengths):
        parts.append(body[start : start + length])
        start += length
    bodies = iter(parts[len(header.begins) :])
    frames: dict[int, bytes | None] = {
        sample: frame.put_together(parts[place - 1], next(bodies)) if place else None
        for sample, place in zip(header.samples, header.says, strict=True)
    }
    return Visit(header.device, header.round, header.step, frames)


def encode_held(held: Held) -> bytes:
    """The frame that tells a device which of its samples the server holds."""
    steps = _differences(sorted(held.samples))
    packed = entropy.compress(steps)
    header = HeldHeader(len(held.samples), held.room_bytes, packed is not None)
    return frame.pack("held", header, steps if packed is None else packed)


def decode_held(data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Held:
    """The samples and room of a frame that `encode_held` made. Raises FrameError."""
    header, body = frame.unpack(data, "held", HeldHeader, max_bytes)
    size = 4 * header.count
    plain: bytes | memoryview = entropy.decompress(body, size) if header.compressed else body
    if len(plain) != size:
        raise FrameError(
            f"the frame declares {header.count} samples but has {len(plain)} bytes of them: have "
            "it sent again"
        )
    numbers = np.cumsum(np.frombuffer(plain, "<u4").astype(np.int64))
    if len(numbers) and (numbers[-1] > MOST_SAMPLES or (np.diff(numbers) < 1).any()):
        raise FrameError("the frame names samples out of order: have it sent again")
    return Held(frozenset(numbers.tolist()), header.room_bytes)


def _differences(rising: Sequence[int]) -> bytes:
    steps = [*rising[:1], *(after - before for before, after in pairwise(rising))]
    return np.array(steps, "<u4").tobytes()
