"""The quantising codec: rows rotated if asked, quantised, compressed if that makes them shorter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import msgspec
import torch
from torch import Tensor

from cutlayer.errors import FrameError
from cutlayer.settings.method import Quantizer
from cutlayer.wire import entropy, quantize, rotate
from cutlayer.wire.codecs import quantized_body
from cutlayer.wire.codecs.seam import Coded, Rows
from cutlayer.wire.custom_levels import pack_levels, unpack_levels
from cutlayer.wire.frame_bytes import body_bytes
from cutlayer.wire.headers import TensorHeader


@dataclass(frozen=True)
class QuantizedCodec:
    """Today's 1 to 32 bits a value; nothing is fitted, and every setting is in the header.

    rotation_seed: 0 to 2^63 - 1, sent along; only used where the quantizer rotates.
    """

    quantizer: Quantizer
    rotation_seed: int = 0

    @property
    def positional(self) -> bool:
        """Each token is decoded by itself, wherever it stood."""
        return False

    def fit(self, samples: Sequence[Rows]) -> Self:
        """There is nothing to fit."""
        return self

    def side_information(self) -> bytes:
        """The header of a frame says it all."""
        return b""

    def encode(
        self, batch: Sequence[Rows], rngs: Sequence[torch.Generator] | None = None
    ) -> list[Coded]:
        """See `Codec.encode`; generators are needed for stochastic rounding only."""
        given = rngs if rngs is not None else [None] * len(batch)
        return [self._encode(rows, rng) for rows, rng in zip(batch, given, strict=True)]

    def _encode(self, rows: Rows, rng: torch.Generator | None) -> Coded:
        quantizer, values = self.quantizer, rows.values
        # Whole floats gain nothing from a rotation.
        rotation = self.rotation_seed if quantizer.rotate and quantizer.bits <= 8 else None
        if rotation is not None:
            values = rotate.rotate(values, rotation)
        packed = quantize.quantize(values, quantizer, rng, rows.what)
        header = TensorHeader(
            quantizer.bits,  # type: ignore[arg-type]  # one of _Bits, by Quantizer's validator
            pack_levels(quantizer.levels, quantizer.bits),  # type: ignore[arg-type]  # or a known
            quantizer.per,
            rotation,
            False,
        )
        return quantized_body.coded(packed, header, quantizer.entropy == "zstd")

    def decode(
        self, header: msgspec.Struct, body: memoryview, positions: Tensor, width: int
    ) -> Tensor:
        """See `decode_quantized`: no setting of this codec is needed."""
        assert isinstance(header, TensorHeader)
        return decode_quantized(header, body, len(positions), width)

    def expected_bytes(self, positions: Tensor, width: int) -> float:
        """The exact length where zstandard does not shorten it."""
        return body_bytes(len(positions), width, self.quantizer)


def decode_quantized(header: TensorHeader, body: memoryview, count: int, width: int) -> Tensor:
    """The rows [count, width] of a quantised body, by its header alone. Raises FrameError."""
    own, name = None, header.levels
    if isinstance(name, tuple):
        # In the body such levels lie as Gaussian ones do.
        own, name = unpack_levels(name, header.bits), "gaussian"
    quantizer = Quantizer(bits=header.bits, levels=name, per=header.per)
    size = body_bytes(count, width, quantizer)
    packed: bytes | memoryview = body
    if header.compressed:
        packed = entropy.decompress(body, size)
    elif len(body) != size:
        raise FrameError(
            f"the frame's header declares {size} bytes of tensor but the body has {len(body)}: "
            "have it sent again"
        )
    rows = quantize.dequantize(packed, count, width, quantizer, own)
    if header.rotation is not None:
        rows = rotate.unrotate(rows, header.rotation)
        if count:
            # Sums of values near float32's end, which only a forged frame holds, overflow.
            quantize.sound(rows)
    return rows
