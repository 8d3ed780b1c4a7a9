"""The body of quantised rows and its header, compressed where that is shorter: in numpy alone."""

import msgspec

from cutlayer.wire import entropy
from cutlayer.wire.codecs.seam import Coded
from cutlayer.wire.headers import TensorHeader


def coded(packed: bytes, header: TensorHeader, compress: bool) -> Coded:
    """Packed rows and their header, which says that they are not compressed; compress: by
    zstandard, where it makes them fewer bytes."""
    shorter = entropy.compress(packed) if compress else None
    if shorter is None:
        return Coded(header, packed)
    return Coded(msgspec.structs.replace(header, compressed=True), shorter)
