"""What the server asks and a device answers in a secure sum: four questions and their answers.

    Begin      -> Keys       the sum's size and threshold; the device's public keys
    Roster     -> Shares     all devices' keys; a sealed share of the device's secrets for each
    Delivery   -> Masked     the shares for this device; its numbers under their masks
    Survivors  -> Unmask     whose numbers came; shares that remove the masks from the sum

Frames are msgpack maps with a key "type", bounded and checked as they are read.
"""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from cutlayer.errors import FrameError
from cutlayer.secure_sum.masks import KEY_BYTES
from cutlayer.secure_sum.shamir import SHARE_BYTES

MOST_DEVICES = 2**12
MOST_VALUES = 2**26
SEALED_BYTES = 2 * SHARE_BYTES + 16

Number = Annotated[int, Meta(ge=0, lt=2**20)]
Weight = Annotated[int, Meta(ge=1, le=2**53)]
Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Share = Annotated[bytes, Meta(min_length=SHARE_BYTES, max_length=SHARE_BYTES)]
Sealed = Annotated[bytes, Meta(min_length=SEALED_BYTES, max_length=SEALED_BYTES)]
Session = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Some = Meta(max_length=MOST_DEVICES)


class _Message(msgspec.Struct, tag_field="type", forbid_unknown_fields=True):
    pass


class Begin(_Message, tag="begin"):
    """Begins a sum of `values` numbers from each of `devices` devices.

    threshold: how many devices must be left to unmask the sum. session: a number that no other sum
    has. weight, most: the device's numbers count weight / most.
    """

    session: Session
    round: Annotated[int, Meta(ge=0, le=2**31)]
    devices: Annotated[int, Meta(ge=3, le=MOST_DEVICES)]
    threshold: Annotated[int, Meta(ge=2, le=MOST_DEVICES)]
    values: Annotated[int, Meta(ge=1, le=MOST_VALUES)]
    weight: Weight
    most: Weight


class Keys(_Message, tag="keys"):
    """Public keys for seals and for masks, and the digest of the seed of the device's own mask."""

    channel: Key
    mask: Key
    seed: Key


class Roster(_Message, tag="roster"):
    """The keys of all devices that sent theirs."""

    keys: Annotated[dict[Number, Keys], _Some]


class Shares(_Message, tag="shares"):
    """Sealed shares of the device's secrets, by the device that they are for."""

    sealed: Annotated[dict[Number, Sealed], _Some]


class Delivery(_Message, tag="delivery"):
    """The sealed shares for this device, by the device that they are from."""

    sealed: Annotated[dict[Number, Sealed], _Some]


class Masked(_Message, tag="masked"):
    """The device's numbers under their masks: 4 bytes each, little-endian."""

    words: Annotated[bytes, Meta(max_length=4 * MOST_VALUES)]


class Survivors(_Message, tag="survivors"):
    """The devices whose masked numbers came."""

    devices: Annotated[list[Number], _Some]


class Unmask(_Message, tag="unmask"):
    """Shares of the survivors' seeds and of the others' mask keys, never both of one device."""

    seeds: Annotated[dict[Number, Share], _Some]
    keys: Annotated[dict[Number, Share], _Some]


Request = Begin | Roster | Delivery | Survivors
Answer = Keys | Shares | Masked | Unmask
Kind = TypeVar("Kind", bound=Answer)

_ENCODER = msgspec.msgpack.Encoder()
_REQUESTS = msgspec.msgpack.Decoder(Request)
_ANSWERS = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """A message as bytes."""
    return _ENCODER.encode(message)


def read_request(frame: bytes) -> Request:
    """The server's question in a frame. Raises FrameError if it is not a valid one."""
    try:
        found: Request = _REQUESTS.decode(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FrameError(f"secure sum: the request is not valid ({error}): run the same cutlayer "
                         "on both sides") from None  # fmt: skip
    return found


def read_answer(frame: bytes, device: int, kind: type[Kind]) -> Kind:
    """A device's answer in a frame. Raises FrameError if it is not a valid one of `kind`."""
    try:
        found = _ANSWERS.decode(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FrameError(
            f"secure sum: the answer of device {device} is not valid ({error}): run the same "
            "cutlayer on both sides"
        ) from None
    if not isinstance(found, kind):
        raise FrameError(
            f"secure sum: device {device} answered {type(found).__name__} instead of "
            f"{kind.__name__}: run the same cutlayer on both sides"
        )
    return found
