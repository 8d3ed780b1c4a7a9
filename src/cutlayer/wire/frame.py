r"""The envelope of every message: a bounded prefix and typed header, then raw bytes.

Layout, all numbers little-endian:

    offset  size  field
    0       4     magic, b"\x93CUT"
    4       1     version, 1
    5       1     kind: 1 activations, 2 gradient, 3 adapter; with a fitted codec 4 activations,
                  5 gradient, and 6 the basis they need; with a label for each token 7
                  activations, 8 with a fitted codec; 9 a visit of samples and 10 what of them
                  the server holds (see `visit`); 11 features for the last blocks on a device
                  and 12 their gradient (see `tail`); 13 what changed of a sample's activations,
                  and 14 with a fitted codec (see `change`); 15 features and 16 their gradient with
                  a fitted codec; 17 a basis that also transforms between patches
    6       4     h, the header's length in bytes, at most MAX_HEADER_BYTES
    10      8     b, the body's length in bytes
    18      4     CRC-32 of bytes 0-17, the header and the body
    22      h     header: one msgpack array, the fields of the kind's header struct in order
    22+h    b     body, whose layout is the kind's (see `codec`)

The frame ends there: its length is exactly 22 + h + b. Reading checks the sizes before anything
is allocated, then the checksum, then the header's types and bounds; the body is not copied.
"""

import struct
import zlib
from typing import TypeVar

import msgspec

from cutlayer.errors import FrameError

MAGIC = b"\x93CUT"
VERSION = 1
KINDS = {
    "activations": 1,
    "gradient": 2,
    "adapter": 3,
    "coded activations": 4,
    "coded gradient": 5,
    "basis": 6,
    "token activations": 7,
    "coded token activations": 8,
    "visit": 9,
    "held": 10,
    "features": 11,
    "feature gradient": 12,
    "change": 13,
    "coded change": 14,
    "coded features": 15,
    "coded feature gradient": 16,
    "spatial basis": 17,
    "token basis": 18,
}
MAX_HEADER_BYTES = 2**17
DEFAULT_MAX_BYTES = 2**28

_PREFIX = struct.Struct("<4sBBIQ")
_CHECKSUM = struct.Struct("<I")
HEAD_BYTES = _PREFIX.size + _CHECKSUM.size

Bytes = bytes | bytearray | memoryview
Header = TypeVar("Header", bound=msgspec.Struct)


def pack(kind: str, header: msgspec.Struct, body: Bytes) -> bytes:
    """One frame of a known `kind`.

    Raises FrameError where the header could not be read back: a value outside its bounds, or more
    than MAX_HEADER_BYTES.
    """
    packed = msgspec.msgpack.encode(header)
    if len(packed) > MAX_HEADER_BYTES:
        raise FrameError(
            f"the header of a frame of {kind} takes {len(packed)} bytes, above the limit of "
            f"{MAX_HEADER_BYTES}: send fewer or shorter names"
        )
    _read_header(packed, type(header))
    return put_together(bytes([KINDS[kind]]) + packed, body)


def kind_of(frame: Bytes) -> str:
    """The kind a frame says it is, from its prefix alone. Raises FrameError."""
    if len(frame) < HEAD_BYTES:
        raise FrameError(f"{len(frame)} bytes are too few for a frame: have it sent again")
    magic, version, number, _, _ = _PREFIX.unpack_from(frame)
    if magic != MAGIC:
        raise FrameError("the bytes are not a frame of cutlayer: check what the other side sends")
    if version != VERSION:
        raise FrameError(
            f"the frame has version {version}, not {VERSION}: run the same cutlayer on both sides"
        )
    for kind, known in KINDS.items():
        if number == known:
            return kind
    raise FrameError(f"the frame is of unknown kind {number}: run the same cutlayer on both sides")


def take_apart(frame: Bytes) -> tuple[bytes, memoryview]:
    """A frame's kind and header, as bytes, and its body; `put_together` undoes it.

    Only for frames that this process made: nothing is checked.
    """
    number, header_bytes = _PREFIX.unpack_from(frame)[2:4]
    view = memoryview(frame)[HEAD_BYTES:]
    return bytes([number, *view[:header_bytes]]), view[header_bytes:]


def put_together(said: Bytes, body: Bytes) -> bytes:
    """The frame of a kind and header and a body; `unpack` checks whether it is sound."""
    packed = bytes(said[1:])
    prefix = _PREFIX.pack(MAGIC, VERSION, said[0], len(packed), len(body))
    checksum = zlib.crc32(body, zlib.crc32(packed, zlib.crc32(prefix)))
    return b"".join((prefix, _CHECKSUM.pack(checksum), packed, body))


def body_length(frame: Bytes) -> int:
    """The bytes of the body of a frame that was read before."""
    return int(_PREFIX.unpack_from(frame)[4])


def unpack(
    frame: Bytes, kind: str, header_type: type[Header], max_bytes: int = DEFAULT_MAX_BYTES
) -> tuple[Header, memoryview]:
    """The typed header and the body (a view into `frame`) of a frame of `kind`.

    max_bytes bounds the whole frame. Raises FrameError for anything but one intact frame.
    """
    if len(frame) > max_bytes:
        raise FrameError(
            f"the frame takes {len(frame)} bytes, above max_bytes {max_bytes}: raise it, or send "
            "smaller batches"
        )
    found = kind_of(frame)
    if found != kind:
        raise FrameError(f"a frame of {found} came instead of one of {kind}")
    _, _, _, header_bytes, body_bytes = _PREFIX.unpack_from(frame)
    if header_bytes > MAX_HEADER_BYTES:
        raise FrameError(
            f"the frame declares a header of {header_bytes} bytes, above the limit of "
            f"{MAX_HEADER_BYTES}: have it sent again"
        )
    declared = HEAD_BYTES + header_bytes + body_bytes
    if declared != len(frame):
        raise FrameError(
            f"the frame declares {declared} bytes but has {len(frame)}: have it sent again"
        )
    view = memoryview(frame)
    (checksum,) = _CHECKSUM.unpack_from(frame, _PREFIX.size)
    rest = view[HEAD_BYTES:]
    if zlib.crc32(rest, zlib.crc32(view[: _PREFIX.size])) != checksum:
        raise FrameError("the frame was damaged (its checksum is wrong): have it sent again")
    return _read_header(rest[:header_bytes], header_type), rest[header_bytes:]


def _read_header(packed: Bytes, header_type: type[Header]) -> Header:
    try:
        return msgspec.msgpack.decode(packed, type=header_type)
    # UnicodeDecodeError, RecursionError and the like mean a bad header, as a wrong type does.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FrameError(f"the frame's header is not valid: {error}") from None
