"""Frames of activations that say what changed of a sample since its last visit.

They are laid out as frames of activations, under kinds of their own: no reader takes a change for
the activations themselves.
"""

from cutlayer.wire import frame
from cutlayer.wire.frame import KINDS, Bytes

_CHANGES = {
    KINDS["activations"]: KINDS["change"],
    KINDS["coded activations"]: KINDS["coded change"],
}


def as_change(activations: Bytes) -> bytes:
    """A frame of activations with one label a sample, as that of a change."""
    said, body = frame.take_apart(activations)
    return frame.put_together(bytes([_CHANGES[said[0]]]) + said[1:], body)
