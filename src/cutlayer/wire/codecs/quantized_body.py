"""The body of quantised rows and its header, compressed where that is shorter: in numpy alone."""

from cutlayer.wire import entropy
from cutlayer.wire.codecs.seam import Coded
from cutlayer.wire.headers import TensorHeader


def coded(packed: bytes, header: TensorHeader, compress: bool) -> Coded:
    """Packed rows and their header; compress: by zstandard, where it makes them fewer bytes."""
    shorter = entropy.compress(packed) if compress else None
    found = TensorHeader(
        header.bits, header.levels, header.per, header.rotation, shorter is not None
    )
    return Coded(found, packed if shorter is None else shorter)
