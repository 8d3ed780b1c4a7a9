"""Computes the lengths of frames for planners, without encoding anything and without torch.

A number in a header takes 1 to 9 bytes; each is counted as if it had six digits. The length of a
body is exact if zstandard does not shorten it, else an upper bound; a body of a fitted codec is
counted with the bits a value that the codec was fitted for.
"""

import math
from collections.abc import Iterable
from math import prod

import msgspec

from cutlayer.settings.method import Quantizer
from cutlayer.wire.custom_levels import pack_levels
from cutlayer.wire.frame import HEAD_BYTES
from cutlayer.wire.headers import (
    ActivationsHeader,
    AdapterHeader,
    CodedActivationsHeader,
    CodedFeatureGradientHeader,
    CodedFeaturesHeader,
    CodedGradientHeader,
    FeatureGradientHeader,
    FeaturesHeader,
    GradientHeader,
    KltHeader,
    TensorHeader,
    VisitHeader,
)
from cutlayer.wire.packing import label_bits

_NUMBER = 10**5


def activations_bytes(
    shape: tuple[int, int, int],
    quantizer: Quantizer,
    num_classes: int,
    masked: bool = False,
    by_token: bool = False,
) -> int:
    """Bytes of a frame with the activations [B, T, D] of a batch; by_token: each has a label.

    shape: B, T, D. quantizer: how values become bits. num_classes: what bounds the labels. masked:
    whether a mask of padding goes with them, as of texts.
    """
    B, T, D = shape
    labels = -(-B * (T if by_token else 1) * label_bits(num_classes) // 8)
    if quantizer.codec == "klt":
        coding = KltHeader(1, 2**62, 0.1, 1.0, "range", 0)
        start = (_NUMBER, _NUMBER, _NUMBER, shape, masked)
        coded = CodedActivationsHeader(*start, 0, False, coding, num_classes)
        body = math.ceil(B * T * D * quantizer.rate_bits / 8)
        return _frame(coded, labels + _mask(B * T, masked) + body)
    tensor = _tensor(quantizer)
    header = ActivationsHeader(_NUMBER, _NUMBER, _NUMBER, shape, masked, tensor, num_classes)
    return _frame(header, labels + _mask(B * T, masked) + body_bytes(B * T, D, quantizer))


def visit_bytes(samples: int, sent: int, sample_bytes: int, empty_bytes: int) -> int:
    """Bytes of a visit of `samples` samples, of which `sent` are sent and the others only named.

    sample_bytes: of the frame of one sample. empty_bytes: of a frame without tokens; the beginning
    of frames is sent once.
    """
    header = VisitHeader(_NUMBER, _NUMBER, _NUMBER, (0,), (0,), (), ())
    # A number in a device's data takes 1 to 5 bytes, a length 1 to 5.
    own = sample_bytes - empty_bytes
    return _frame(header, 5 * samples + (empty_bytes if sent else 0) + sent * (3 + own))


def gradient_bytes(shape: tuple[int, int, int], quantizer: Quantizer, masked: bool = False) -> int:
    """Bytes of a frame with the gradient of activations [B, T, D]."""
    B, T, D = shape
    if quantizer.codec == "klt":
        coding = KltHeader(1, 2**62, 0.1, 1.0, "range", 0)
        coded = CodedGradientHeader(_NUMBER, _NUMBER, _NUMBER, shape, masked, coding, 1.0)
        return _frame(coded, _mask(B * T, masked) + math.ceil(B * T * D * quantizer.rate_bits / 8))
    header = GradientHeader(_NUMBER, _NUMBER, _NUMBER, shape, masked, _tensor(quantizer), 1.0)
    return _frame(header, _mask(B * T, masked) + body_bytes(B * T, D, quantizer))


def features_bytes(rows: int, width: int, quantizer: Quantizer, gradient: bool = False) -> int:
    """Bytes of a frame with features [rows, width] for a device's tail, or with their gradient."""
    start = (_NUMBER, _NUMBER, _NUMBER, rows, width)
    header: msgspec.Struct
    if quantizer.codec == "klt":
        coding = KltHeader(1, 2**62, 0.1, 1.0, "range", 0)
        header = CodedFeaturesHeader(*start, coding)
        if gradient:
            header = CodedFeatureGradientHeader(*start, coding, 1.0)
        return _frame(header, math.ceil(rows * width * quantizer.rate_bits / 8))
    header = FeaturesHeader(*start, _tensor(quantizer))
    if gradient:
        header = FeatureGradientHeader(*start, _tensor(quantizer), 1.0)
    return _frame(header, body_bytes(rows, width, quantizer))


def adapter_bytes(tensors: Iterable[tuple[str, tuple[int, ...]]], bits: int) -> int:
    """Bytes of a frame with an adapter's tensors at 16 or 32 bits; 0 for an adapter without any."""
    found = tuple(tensors)
    if not found:
        return 0
    header = AdapterHeader(_NUMBER, _NUMBER, _NUMBER, 16 if bits == 16 else 32, found)
    return _frame(header, sum(prod(shape) for _, shape in found) * bits // 8)


def body_bytes(rows: int, width: int, quantizer: Quantizer) -> int:
    """The exact length in bytes of [rows, width] quantised (see `quantize`)."""
    if quantizer.bits > 8 or rows == 0:
        return rows * width * quantizer.bits // 8
    groups = rows if quantizer.per == "token" else 1
    fields = 2 if quantizer.levels == "uniform" else 1
    return 4 + 2 * fields * groups + -(-rows * width * quantizer.bits // 8)


def _tensor(quantizer: Quantizer) -> TensorHeader:
    rotation = 2**62 if quantizer.rotate and quantizer.bits <= 8 else None
    bits = quantizer.bits
    levels = pack_levels(quantizer.levels, bits)
    return TensorHeader(bits, levels, quantizer.per, rotation, False)  # type: ignore[arg-type]


def _mask(tokens: int, masked: bool) -> int:
    return -(-tokens // 8) if masked else 0


def _frame(header: msgspec.Struct, body: int) -> int:
    return HEAD_BYTES + len(msgspec.msgpack.encode(header)) + body
