"""HTTP/2 by hand, for what no client library would send."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""What a client begins with: the magic and empty settings."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    length = len(payload).to_bytes(3, "big")
    return length + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def data(payload: bytes) -> bytes:
    """Bytes of stream 1."""
    return frame(0, 0, 1, payload)


def post(path: bytes) -> bytes:
    """The headers of a gRPC call as stream 1."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"localhost",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in fields.items()
    )
    return frame(1, 4, 1, block)
