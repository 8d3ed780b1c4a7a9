"""A device's side of the uplink's codec: a plain quantiser, or a basis that its server has fitted.

Until the server has a basis, devices send a round's first steps in 4 bits, and the server fits a
basis to them. The basis then comes down as a frame, and the device keeps it from round to round. If
samples are reused, the device only names those that the server holds.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cutlayer.allocate.decision import Decision
from cutlayer.errors import FrameError, RunError
from cutlayer.settings.method import Method, Quantizer
from cutlayer.train.device_changes import DeviceChanges
from cutlayer.train.opening import HeldSamples, Opening
from cutlayer.wire.codecs.basis import read_basis
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.quantized import QuantizedCodec
from cutlayer.wire.codecs.seam import Codec
from cutlayer.wire.visit import Visit, encode_visit

Indices = NDArray[np.int64]

FITTING = Quantizer(bits=4, levels="gaussian", rotate=True)
"""How activations are sent to which a basis is fitted: 4 bits lose almost nothing of them."""


@lru_cache(maxsize=32)
def codec_of(basis: bytes, share: float = 1.0) -> KltCodec:
    """The codec of a basis's frame; devices in one process share it. Raises FrameError.

    share: how many of the bits a value that the basis was fitted for (see `KltCodec.coarser`).
    """
    if share < 1:
        return codec_of(basis).coarser(share)
    return KltCodec(read_basis(basis))


def rate_share(method: Method, decision: Decision) -> float:
    """The bits a value that a device is to send, as a share of those the basis is fitted for."""
    if decision.rate_bits is None:
        return min(1.0, method.uplink.rate_bits / method.finest_rate_bits)
    return min(1.0, decision.rate_bits / method.finest_rate_bits)


class DeviceCoding:
    """What a device encodes activations with.

    codec: of the last basis that came down, None before the first; ways: the same of what else
    crosses, by the names in ways.py. plain_steps: see `Opening`. changes: what is held of samples
    that go up as changes; change_codec: what these are encoded with.
    """

    def __init__(self) -> None:
        self.codec: KltCodec | None = None
        self.ways: dict[str, KltCodec] = {}
        self.change_codec: KltCodec | None = None
        self.changes = DeviceChanges()
        self.plain_steps = 0
        self._held = HeldSamples()

    def begin(self, opening: Opening) -> None:
        """Start a round. Raises FrameError for a basis that cannot be read."""
        self.plain_steps = opening.plain_steps
        if opening.basis is not None:
            self.learn(opening.basis)
        self.ways |= {way: codec_of(bytes(basis)) for way, basis in opening.ways.items()}
        if opening.change_basis is not None:
            self.change_codec = codec_of(bytes(opening.change_basis))
        if opening.held_digest is not None:
            if opening.held is None:
                raise FrameError(
                    "frame: the server says what it holds by a number alone: run the same "
                    "cutlayer on both sides"
                )
            self.changes.begin(opening.held, opening.held_digest, opening.change_steps)
            return
        self._held = HeldSamples(opening.held)

    def learn(self, basis: bytes) -> None:
        """Take a basis that came down. Raises FrameError."""
        self.codec = codec_of(bytes(basis))

    @property
    def fingerprint(self) -> int | None:
        """The fingerprint of the basis that the device has; None without one."""
        return None if self.codec is None else self.codec.basis.fingerprint

    def has(self, basis: int) -> bool:
        """Whether the device has the basis with this fingerprint, of whatever crosses."""
        found = (self.codec, self.change_codec, *self.ways.values())
        return any(one is not None and one.basis.fingerprint == basis for one in found)

    def to_send(self, samples: Indices) -> Indices:
        """The numbers out of `samples` that the server does not hold."""
        return self._held.to_send(samples)

    def visit(self, due: tuple[int, int, int], samples: Indices, encoded: Sequence[bytes]) -> bytes:
        """The frame of a batch: activations of the samples to send, and the names of the others.

        due: device, round and step. encoded: a frame for each of the samples to send.
        """
        frames: dict[int, bytes | None] = dict.fromkeys(map(int, samples))
        fresh = [int(one) for one in self.to_send(samples)]
        found = dict(zip(fresh, encoded, strict=True))
        frames |= found
        self._held.sent(found.items())
        return encode_visit(Visit(*due, frames))

    def change_visit(
        self,
        due: tuple[int, int, int],
        samples: Indices,
        whole: Mapping[int, bytes],
        changes: Mapping[int, bytes],
        codecs: tuple[Codec, Codec],
    ) -> bytes:
        """The frame of a batch of samples, of which some go up as changes; arguments by number as
        in `DeviceChanges.sent`."""
        found = self.changes.sent(whole.items(), changes.items(), codecs)
        return encode_visit(Visit(*due, {int(one): found[int(one)] for one in samples}))

    def fits_changes(self, method: Method) -> bool:
        """Whether there is what changes are encoded with after the steps in 4 bits."""
        return method.uplink.codec == "quantize" or self.change_codec is not None

    def change_codec_at(self, step: int, method: Method, rotation_seed: int) -> Codec:
        """What to encode the changes of a step with."""
        if method.uplink.codec == "quantize":
            return QuantizedCodec(method.uplink, rotation_seed)
        if self.change_codec is None or self.changes.are_plain(step):
            return QuantizedCodec(FITTING, rotation_seed)
        return self.change_codec

    def codec_at(self, step: int, method: Method, decision: Decision, rotation_seed: int) -> Codec:
        """The codec for the activations of a step. Raises RunError if a needed basis is missing."""
        if method.uplink.codec == "quantize":
            return QuantizedCodec(decision.uplink(method), rotation_seed)
        if step < self.plain_steps:
            return QuantizedCodec(FITTING, rotation_seed)
        if self.codec is None:
            raise RunError(
                "method.uplink.codec: the server sent no basis to encode with: run the same "
                "cutlayer on both sides"
            )
        share = rate_share(method, decision)
        return self.codec if share >= 1 else codec_of(self.codec.basis.frame, share)
