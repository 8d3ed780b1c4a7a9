"""The body of quantised rows and its header, compressed where that is shorter: in numpy alone."""

import msgspec

from cutlayer.wire import entropy
from cutlayer.wire.codecs.seam import Coded
from cutlayer.wire.headers import TensorHeader


def coded(packed: bytes, header: TensorHeader, compress: bool) -> Coded:
    """Packed rows and their header as a codec returns them. header: says "not compressed";
    compress: try zstandard, and use it if it makes the rows shorter."""
    shorter = entropy.compress(packed) if compress else None
    if shorter is None:
        return Coded(header, packed)
    return Coded(msgspec.structs.replace(header, compressed=True), shorter)
