"""The quantising codec: rows rotated if asked, quantised, compressed if that makes them shorter.

Rows of many devices are encoded and decoded in one call, on the torch device that computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
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
from cutlayer.wire.dequantize import CPU, Float32, dequantize_all, unsound
from cutlayer.wire.frame_bytes import body_bytes
from cutlayer.wire.headers import TensorHeader
from cutlayer.wire.transfer import side_by_side

_LARGEST = float(torch.finfo(torch.float32).max)


@dataclass(frozen=True)
class QuantizedCodec:
    """A quantiser of 1 to 32 bits a value; nothing is fitted, and every setting is in the header.

    rotation_seed: 0 to 2^63 - 1, in the header too; only used if the quantizer rotates.
    """

    quantizer: Quantizer
    rotation_seed: int = 0

    @property
    def token_classes(self) -> int:
        """0: each token is decoded without knowing which it is."""
        return 0

    @property
    def positional(self) -> bool:
        """False: each token is decoded without knowing its position."""
        return False

    def fit(self, samples: Sequence[Rows]) -> Self:
        """The same codec: there is nothing to fit."""
        return self

    def side_information(self) -> bytes:
        """Empty: the header of each frame holds every setting."""
        return b""

    def encode(
        self, batch: Sequence[Rows], rngs: Sequence[torch.Generator] | None = None
    ) -> list[Coded]:
        """See `Codec.encode`; generators are needed for stochastic rounding only."""
        if not batch:
            return []
        quantizer, counts = self.quantizer, [len(rows.values) for rows in batch]
        values = batch[0].values if len(batch) == 1 else torch.cat([rows.values for rows in batch])
        # Whole floats gain nothing from a rotation.
        rotation = self.rotation_seed if quantizer.rotate and quantizer.bits <= 8 else None
        if rotation is not None:
            values = rotate.rotate(values, rotation, counts)
        whats = [rows.what for rows in batch]
        bodies = quantize.quantize_all(values, counts, quantizer, rngs, whats)
        levels = pack_levels(quantizer.levels, quantizer.bits)
        header = TensorHeader(
            quantizer.bits,  # type: ignore[arg-type]  # one of _Bits, by Quantizer's validator
            levels,  # type: ignore[arg-type]  # or a known one
            quantizer.per,
            rotation,
            False,
        )
        compress = quantizer.entropy == "zstd"

        def coded(body: bytes) -> Coded:
            return quantized_body.coded(body, header, compress)

        return side_by_side(coded, bodies, sum(map(len, bodies)) if compress else 0)

    def decode(
        self, header: msgspec.Struct, body: memoryview, positions: Tensor, width: int
    ) -> Tensor:
        """See `decode_quantized`: no setting of this codec is needed."""
        assert isinstance(header, TensorHeader)
        return decode_quantized(header, body, len(positions), width)

    def expected_bytes(self, positions: Tensor, width: int) -> float:
        """The length in bytes, exact if zstandard does not shorten the body."""
        return body_bytes(len(positions), width, self.quantizer)


def decode_quantized(header: TensorHeader, body: memoryview, count: int, width: int) -> Tensor:
    """The rows [count, width] of one body, on the CPU; see `decode_quantized_all`."""
    (rows,) = decode_quantized_all([header], [body], [count], width)
    if isinstance(rows, FrameError):
        raise rows
    return rows


def decode_quantized_all(
    headers: Sequence[TensorHeader],
    bodies: Sequence[memoryview],
    counts: Sequence[int],
    width: int,
    device: torch.device = CPU,
) -> list[Tensor | FrameError]:
    """The rows [count, width] of many quantised bodies on `device`, or the error of a faulty one.

    Their headers hold all settings; bodies with equal settings are decoded in one call.
    """
    found: dict[int, Tensor | FrameError] = {}
    alike: dict[TensorHeader, list[int]] = {}
    for place, header in enumerate(headers):
        alike.setdefault(msgspec.structs.replace(header, compressed=False), []).append(place)
    for header, places in alike.items():
        given = [(headers[at].compressed, bodies[at], counts[at]) for at in places]
        found |= dict(zip(places, _decode_alike(header, given, width, device), strict=True))
    return [found[place] for place in range(len(bodies))]


def _decode_alike(
    header: TensorHeader,
    given: Sequence[tuple[bool, memoryview, int]],
    width: int,
    device: torch.device,
) -> list[Tensor | FrameError]:
    """As `decode_quantized_all`, for one setting. given: compressed or not, body, rows."""
    try:
        quantizer, own = _settings(header)
    except FrameError as fault:
        return [fault] * len(given)

    def plain(one: tuple[bool, memoryview, int]) -> bytes | memoryview | FrameError:
        compressed, body, count = one
        return _plain(body, body_bytes(count, width, quantizer), compressed)

    opened = side_by_side(plain, given, sum(len(body) for _, body, _ in given))
    fit = [at for at, one in enumerate(opened) if not isinstance(one, FrameError)]
    plains = [one for one in opened if not isinstance(one, FrameError)]
    counts = [given[at][2] for at in fit]
    rows = dequantize_all(plains, counts, width, quantizer, own, device)
    values, faults = rows.values, rows.faults
    if header.rotation is not None and len(values):
        values = rotate.unrotate(values, header.rotation, counts)
        if not rows.bound * width < _LARGEST:
            # Undoing a rotation sums values, which overflow if a forged frame has huge ones.
            faults = unsound(values, counts) | faults
    parts = iter(enumerate(torch.split(values, counts)))
    found: list[Tensor | FrameError] = []
    for one in opened:
        if not isinstance(one, FrameError):
            at, part = next(parts)
            found.append(faults.get(at, part))
        else:
            found.append(one)
    return found


@lru_cache(maxsize=64)
def _settings(header: TensorHeader) -> tuple[Quantizer, Float32 | None]:
    """The settings with which a body was quantised, and the sender's own levels if it has any."""
    if not isinstance(header.levels, tuple):
        return Quantizer(bits=header.bits, levels=header.levels, per=header.per), None
    # A body with the sender's own levels has the layout of one with Gaussian levels.
    own = unpack_levels(header.levels, header.bits)
    return Quantizer(bits=header.bits, levels="gaussian", per=header.per), own


def _plain(body: memoryview, size: int, compressed: bool) -> bytes | memoryview | FrameError:
    """The unpacked body if it has the size that its header declares, else the error."""
    if compressed:
        try:
            return entropy.decompress(body, size)
        except FrameError as fault:
            return fault
    if len(body) == size:
        return body
    return FrameError(
        f"the frame's header declares {size} bytes of tensor but the body has {len(body)}: "
        "have it sent again"
    )
