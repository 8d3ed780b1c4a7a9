"""A lie about each field of what devices send: messages and headers of frames, by their types.

A field that is added later is lied about as well. Names tell what is said: `Ready.samples: 0`.
"""

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import inspect

from cutlayer.network.transport.messages import Hello, Message, Probed, Ready, StepDone
from cutlayer.wire.frame import HEAD_BYTES, kind_of
from cutlayer.wire.headers import (
    ActivationsHeader,
    AdapterHeader,
    CodedActivationsHeader,
    CodedFeatureGradientHeader,
    FeatureGradientHeader,
    VisitHeader,
)
from cutlayer.wire.visit import Visit, decode_visit, encode_visit
from liars import Lie, mended

Edit = Callable[[Any], Any]

SAID: tuple[type[Message], ...] = (Hello, Ready, StepDone, Probed)
"""The messages with which a device takes part."""

HEADERS: dict[str, type[msgspec.Struct]] = {
    "activations": ActivationsHeader,
    "coded activations": CodedActivationsHeader,
    "token activations": ActivationsHeader,
    "coded token activations": CodedActivationsHeader,
    "change": ActivationsHeader,
    "coded change": CodedActivationsHeader,
    "feature gradient": FeatureGradientHeader,
    "coded feature gradient": CodedFeatureGradientHeader,
    "adapter": AdapterHeader,
    "visit": VisitHeader,
}
"""The header of each kind of frame that goes up."""


@dataclass(frozen=True)
class FieldLie:
    """outside: no server takes it for what it says it is. told: the kind of each message and frame
    that it has changed so far."""

    name: str
    lie: Lie
    outside: bool
    told: list[str] = field(default_factory=list)


def edits_of(kind: inspect.Type) -> Iterator[tuple[str, Edit, bool]]:
    """Other values of a field: what is said, how, and whether it is outside what the type takes."""

    def values(given: tuple[Any, ...], outside: bool) -> Iterator[tuple[str, Edit, bool]]:
        for value in given:
            shown = value if len(str(value)) < 25 else f"{str(value)[:9]}... ({len(value)})"
            yield str(shown), lambda _, value=value: value, outside  # type: ignore[misc]

    match kind:
        case inspect.Metadata():
            yield from edits_of(kind.type)
        case inspect.UnionType():
            for one in kind.types:
                yield from edits_of(one)
        case inspect.NoneType():
            yield from values((None,), False)
        case inspect.BoolType():
            yield "the other", lambda value: not value, False
        case inspect.IntType():
            bounds = [one for one in (kind.ge, kind.le) if one is not None]
            yield from values(tuple(bounds), False)
            yield "one more", lambda value: (value or 0) + 1, False
            yield from values((-1, 2**64 - 1), True)
        case inspect.FloatType():
            low = kind.ge if kind.gt is None else math.nextafter(kind.gt, 1)
            bounds = [one for one in (low, kind.le, 5e-324) if one is not None]
            least = -math.inf if low is None else low
            yield from values(tuple(one for one in bounds if one >= least), False)
            yield from values((-1.0, math.nan, math.inf), True)
        case inspect.StrType():
            yield from values(("\x1b[2J" * 200, 7), True)
        case inspect.LiteralType():
            yield from values(kind.values, False)
            yield from values(("other", 9), True)
        case inspect.ListType() | inspect.VarTupleType():
            yield "half", lambda value: (value or ())[: len(value or ()) // 2], False
            yield "twice", lambda value: [*(value or ()), *(value or ())], False
            yield "backwards", lambda value: (value or ())[::-1], False
            yield from values((7, [{}]), True)
        case inspect.TupleType():
            yield "backwards", lambda value: value[::-1], False
            for place, _ in enumerate(kind.item_types):
                for number in (1, 2**31):
                    yield (
                        f"{number} in place {place}",
                        lambda value, p=place, n=number: [*value[:p], n, *value[p + 1 :]],  # type: ignore[misc]
                        False,
                    )
            yield from values(([], [0] * 99), True)


def about_messages(kinds: tuple[type[Message], ...] = SAID) -> Iterator[FieldLie]:
    """Lies about each field of messages, and each message again or of another kind."""
    for kind in kinds:
        info = inspect.type_info(kind)
        assert isinstance(info, inspect.StructType)
        for one in info.fields:
            for said, edit, outside in edits_of(one.type):
                name = f"{kind.__name__}.{one.name}: {said}"
                yield _of_messages(name, kind, _field_edit(one.name, edit), outside)
        if kind is not Hello:
            name = f"{kind.__name__} as a greeting"
            yield _of_messages(name, kind, lambda _: Hello(version="1"), True)
    yield FieldLie("every message twice", Lie(repeat=2), False, ["every message"])


def _of_messages(
    name: str, kind: type[Message], edit: Callable[[Message], Message], outside: bool
) -> FieldLie:
    told: list[str] = []

    def edited(one: Message) -> Message:
        if not isinstance(one, kind):
            return one
        told.append(kind.__name__)
        return edit(one)

    return FieldLie(name, Lie(message=edited), outside, told)


def _field_edit(name: str, edit: Edit) -> Callable[[Message], Message]:
    return lambda one: msgspec.structs.replace(one, **{name: edit(getattr(one, name))})


def about_frames(kinds: set[str]) -> Iterator[FieldLie]:
    """Lies about each field of headers of these kinds, about their prefix and their body."""
    for kind in sorted(kinds):
        for path, said, edit, outside in _paths(HEADERS[kind]):
            name = f"{kind} {'.'.join(path)}: {said}"
            yield _of_frames(name, kind, _header_edit(kind, path, edit), outside)
        for said, cut in _DAMAGE.items():
            yield _of_frames(f"{kind} {said}", kind, cut, True)


def _paths(
    header: type[msgspec.Struct], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str, Edit, bool]]:
    info = inspect.type_info(header)
    assert isinstance(info, inspect.StructType)
    for one in info.fields:
        path = (*above, one.name)
        if isinstance(one.type, inspect.StructType):
            yield from _paths(one.type.cls, path)
        else:
            for said, edit, outside in edits_of(one.type):
                yield path, said, edit, outside


def _of_frames(name: str, kind: str, edit: Callable[[bytes], bytes], outside: bool) -> FieldLie:
    """A lie about frames of a kind, those inside visits included."""
    told: list[str] = []

    def edited(frame: bytes) -> bytes:
        if kind_of(frame) == kind:
            told.append(kind)
            return edit(frame)
        if kind_of(frame) == "visit":
            visit = decode_visit(frame)
            inner: Mapping[int, bytes | None] = {
                sample: one and edited(one) for sample, one in visit.frames.items()
            }
            return encode_visit(Visit(visit.device, visit.round, visit.step, inner))
        return frame

    lie = Lie(adapter=edited) if kind == "adapter" else Lie(activations=edited)
    return FieldLie(name, lie, outside, told)


def _header_edit(kind: str, path: tuple[str, ...], edit: Edit) -> Callable[[bytes], bytes]:
    places, header = [], HEADERS[kind]
    for name in path:
        info = inspect.type_info(header)
        assert isinstance(info, inspect.StructType)
        place = next(n for n, field in enumerate(info.fields) if field.name == name)
        places.append(place)
        below = info.fields[place].type
        header = below.cls if isinstance(below, inspect.StructType) else header

    def edited(frame: bytes) -> bytes:
        end = HEAD_BYTES + struct.unpack_from("<I", frame, 6)[0]
        values = level = msgspec.msgpack.decode(frame[HEAD_BYTES:end])
        for place in places[:-1]:
            level = level[place]
        level[places[-1]] = edit(level[places[-1]])
        packed, body = msgspec.msgpack.encode(values), frame[end:]
        prefix = frame[:6] + struct.pack("<IQ", len(packed), len(body))
        return mended(prefix + bytes(4) + packed + body)

    return edited


def _cut(frame: bytes, body: bytes) -> bytes:
    end = HEAD_BYTES + struct.unpack_from("<I", frame, 6)[0]
    return mended(frame[:10] + struct.pack("<Q", len(body)) + frame[18:end] + body)


def _body(frame: bytes) -> bytes:
    return frame[HEAD_BYTES + struct.unpack_from("<I", frame, 6)[0] :]


_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "of another magic": lambda frame: b"\0" + frame[1:],
    "of version 255": lambda frame: mended(frame[:4] + b"\xff" + frame[5:]),
    "of kind 0": lambda frame: mended(frame[:5] + b"\0" + frame[6:]),
    "whose header is 2^32 - 1 long": lambda frame: frame[:6] + b"\xff" * 4 + frame[10:],
    "whose body is 2^64 - 1 long": lambda frame: frame[:10] + b"\xff" * 8 + frame[18:],
    "of a wrong checksum": lambda frame: frame[:18] + bytes(4) + frame[22:],
    "without a body": lambda frame: _cut(frame, b""),
    "with half a body": lambda frame: _cut(frame, _body(frame)[: len(_body(frame)) // 2]),
    "with a longer body": lambda frame: _cut(frame, _body(frame) + b"\xff" * 64),
    "of nothing": lambda frame: b"",
}
