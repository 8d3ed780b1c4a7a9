"""A device's side of the uplink's codec: a plain quantiser, or a basis that its server has fitted.

Until the server has a basis, devices send a round's first steps in 4 bits, from which it fits one.
It then comes down as a frame, and stays with the device from round to round.
"""

from dataclasses import dataclass
from functools import lru_cache

from cutlayer.errors import RunError
from cutlayer.settings.method import Quantizer
from cutlayer.wire.codecs.basis import read_basis
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.quantized import QuantizedCodec
from cutlayer.wire.codecs.seam import Codec

FITTING = Quantizer(bits=4, levels="gaussian", rotate=True)
"""How activations travel that a basis is fitted to: 4 bits lose next to nothing of them."""


@dataclass(frozen=True)
class Opening:
    """The frames that the server sends a device at a round's start.

    adapter: None: the device goes on with the one it has. basis: None: it has the server's, or
    there is none yet. plain_steps: the first steps, sent as `FITTING` says; the basis comes down
    before the step after them. 0: there is a basis, or the codec needs none.
    """

    adapter: bytes | None = None
    basis: bytes | None = None
    plain_steps: int = 0


@lru_cache(maxsize=4)
def codec_of(basis: bytes) -> KltCodec:
    """The codec of a basis's frame; devices in one process share it. Raises FrameError."""
    return KltCodec(read_basis(basis))


class DeviceCoding:
    """What a device encodes activations with.

    codec: of the last basis that came down, None before the first. plain_steps: see `Opening`.
    """

    def __init__(self) -> None:
        self.codec: KltCodec | None = None
        self.plain_steps = 0

    def begin(self, opening: Opening) -> None:
        """Start a round. Raises FrameError for a basis that cannot be read."""
        self.plain_steps = opening.plain_steps
        if opening.basis is not None:
            self.learn(opening.basis)

    def learn(self, basis: bytes) -> None:
        """Take a basis that came down. Raises FrameError."""
        self.codec = codec_of(bytes(basis))

    @property
    def fingerprint(self) -> int | None:
        """Of the basis that the device has; None without one."""
        return None if self.codec is None else self.codec.basis.fingerprint

    def codec_at(self, step: int, uplink: Quantizer, rotation_seed: int) -> Codec:
        """What to encode the activations of a step with. Raises RunError where a basis is due."""
        if uplink.codec == "quantize":
            return QuantizedCodec(uplink, rotation_seed)
        if step < self.plain_steps:
            return QuantizedCodec(FITTING, rotation_seed)
        if self.codec is None:
            raise RunError(
                "method.uplink.codec: the server sent no basis to encode with: run the same "
                "cutlayer on both sides"
            )
        return self.codec
