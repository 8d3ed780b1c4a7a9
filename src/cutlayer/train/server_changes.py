"""What a device's batch is on the server, of which samples came whole or as changes.

All of it is computed on the CPU, as on the device, so that both hold the same to the last bit.
"""

from collections.abc import Sequence
from dataclasses import replace

from cutlayer.allocate.decision import Decision
from cutlayer.errors import FrameError
from cutlayer.train.batches import joined
from cutlayer.train.server_coding import ServerCoding
from cutlayer.train.server_frames import Part
from cutlayer.wire.codecs.seam import Codec
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.opened import Opened, activations_of


def decode_changes(
    opened: Sequence[Opened], whole: Codec | None, changes: Codec | None
) -> list[ActivationsMessage | FrameError]:
    """What frames hold: those of a kind are decoded in one call, with the codec of the kind."""
    found: dict[int, ActivationsMessage | FrameError] = {}
    for kind, codec in ((False, whole), (True, changes)):
        places = [place for place, one in enumerate(opened) if one.change == kind]
        decoded = activations_of([opened[place] for place in places], codec)
        found |= dict(zip(places, decoded, strict=True))
    return [found[place] for place in range(len(opened))]


def add_changes(
    coding: ServerCoding,
    decision: Decision,
    parts: Sequence[Part],
    messages: Sequence[ActivationsMessage],
) -> ActivationsMessage:
    """A device's batch: changes are added to what is held of their samples, and the sums are held.

    Raises FrameError for a change of a sample of which nothing is held.
    """
    changes = coding.changes
    assert changes is not None
    whole = [_added(coding, part, one) for part, one in zip(parts, messages, strict=True)]
    for part, came, message in zip(parts, messages, whole, strict=True):
        assert part.frame is not None  # no sample is only named
        if part.opened.change:
            changes.note(decision.cut, came.hidden, message.hidden, part.frame)
        else:
            coding.note(message, part.frame, decision)
        if part.sample is not None:
            changes.keep(message.device, part.sample, message.hidden[0])
    if parts[0].sample is None:
        return whole[0]
    return joined(whole, (whole[0].device, whole[0].round, whole[0].step))


def _added(coding: ServerCoding, part: Part, message: ActivationsMessage) -> ActivationsMessage:
    """A sample's activations, of itself or of what changed."""
    assert coding.changes is not None
    if not part.opened.change:
        return message
    assert part.sample is not None  # the change of a batch is refused before
    held = coding.changes.find(message.device, part.sample)
    if held is None:
        raise FrameError(
            f"frame: device {message.device} sent what changed of its sample {part.sample}, of "
            "which nothing is held: run the same cutlayer on both sides"
        )
    return replace(message, hidden=held + message.hidden)
