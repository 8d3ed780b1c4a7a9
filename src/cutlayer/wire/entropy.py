"""Entropy coding of packed bytes with zstandard, used only if it makes them shorter."""

import zstandard

from cutlayer.errors import FrameError

# Level 1 makes use of the uneven frequencies of packed codes; higher levels search for repeats,
# and there are none.
_LEVEL = 1
# The smallest window that zstandard knows.
_MIN_WINDOW = 1024


def compress(data: bytes) -> bytes | None:
    """`data` (bytes) as one zstandard frame, or None where that would not be shorter."""
    coded = zstandard.ZstdCompressor(level=_LEVEL).compress(data)
    return coded if len(coded) < len(data) else None


def declared_size(data: bytes | memoryview) -> int:
    """How many bytes a zstandard frame says it unpacks to; nothing is allocated for them.

    Raises FrameError.
    """
    try:
        return int(zstandard.get_frame_parameters(data).content_size)
    except zstandard.ZstdError as error:
        raise FrameError(
            f"the frame's compressed body cannot be unpacked ({error}): have it sent again"
        ) from None


def decompress(data: bytes | memoryview, size: int) -> bytes:
    """Undo `compress`, given the exact size (bytes) of what was compressed.

    A frame that declares another size, or a window beyond it, is refused before anything is
    allocated. Raises FrameError.
    """
    try:
        declared = zstandard.get_frame_parameters(data)
        if declared.content_size != size or declared.window_size > max(size, _MIN_WINDOW):
            raise FrameError(
                f"the frame's compressed body would unpack to {declared.content_size} bytes "
                f"instead of {size}: have it sent again"
            )
        return zstandard.ZstdDecompressor().decompress(
            data, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise FrameError(
            f"the frame's compressed body cannot be unpacked ({error}): have it sent again"
        ) from None
