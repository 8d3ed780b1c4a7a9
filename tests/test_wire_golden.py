"""Frames are, byte for byte, what earlier versions sent."""

import hashlib

import numpy as np
import pytest
import torch

from cutlayer.settings.method import Quantizer
from cutlayer.wire.adapter_frames import encode_adapter
from cutlayer.wire.codec import (
    encode_activations,
    encode_activations_with,
    encode_gradient,
    encode_gradients_with,
)
from cutlayer.wire.codecs.basis import Basis, Components
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.quantized import QuantizedCodec
from cutlayer.wire.frame import kind_of
from cutlayer.wire.headers import BasisHeader
from cutlayer.wire.messages import ActivationsMessage, AdapterMessage, GradientMessage
from cutlayer.wire.tail import FeatureGradientMessage, FeaturesMessage, encode_features

# Values that float32 holds exactly, also when rotated over a width of 16: equal on any machine.
HIDDEN = ((torch.arange(2 * 3 * 16) * 37 % 129 - 64) / 16).view(2, 3, 16)
MASK = torch.tensor([[True, True, True], [True, False, True]])
LABELS = torch.tensor([3, 9])

GOLDEN = {
    "float32": (Quantizer(entropy="none"), "3ce65e4092761645"),
    "bfloat16": (Quantizer(bits=16, entropy="none"), "7a736bd965550412"),
    "8 bits, a range a tensor": (
        Quantizer(bits=8, per="tensor", entropy="none"),
        "a58d43a6db22e311",
    ),
    "4 bits, rotated": (
        Quantizer(bits=4, levels="gaussian", rotate=True, entropy="none"),
        "b62bdd0572578221",
    ),
    "3 bits, stochastic": (
        Quantizer(bits=3, rounding="stochastic", entropy="none"),
        "5cc08351e51f1d05",
    ),
    "2 bits, rotated": (
        Quantizer(bits=2, levels="gaussian", rotate=True, entropy="none"),
        "4d2efcfbf5fb82f3",
    ),
    "1 bit": (Quantizer(bits=1, entropy="none"), "a2df1bd42ede6214"),
}


def digest(frames: list[bytes]) -> str:
    return hashlib.sha256(b"".join(frames)).hexdigest()[:16]


@pytest.mark.parametrize(("quantizer", "expected"), GOLDEN.values(), ids=GOLDEN.keys())
def test_activations_and_gradients_keep_their_bytes(quantizer: Quantizer, expected: str) -> None:
    frames = []
    for mask in (None, MASK):
        rng = torch.Generator().manual_seed(5)
        up = ActivationsMessage(7, 2, 1, HIDDEN, mask, LABELS, 10)
        down = GradientMessage(7, 2, 1, HIDDEN / 4096, 0.5, mask)
        frames += [
            encode_activations(up, quantizer, rng=rng, rotation_seed=11),
            encode_gradient(down, quantizer, rng=rng, rotation_seed=11),
        ]
    assert digest(frames) == expected


def test_adapters_keep_their_bytes() -> None:
    message = AdapterMessage(7, 2, 50, {"w": HIDDEN, "b": HIDDEN[0, 0]})
    assert digest([encode_adapter(message, 16)]) == "0b92acda0bc8628a"
    assert digest([encode_adapter(message, 32)]) == "0f0fde845ebe2911"


def test_what_passes_the_tail_keeps_its_bytes() -> None:
    rows = HIDDEN.flatten(0, 1)
    frames = []
    for quantizer, _ in GOLDEN.values():
        codec, rng = QuantizedCodec(quantizer, 11), torch.Generator().manual_seed(5)
        frames += encode_features([FeaturesMessage(7, 2, 1, rows)], codec, [rng])
        frames += encode_features([FeatureGradientMessage(7, 2, 1, rows, 0.5)], codec, [rng])
    assert digest(frames) == "08c07e162df4f0af"


def plain_basis(per_batch: bool) -> KltCodec:
    """A basis of whole numbers: each channel is a component, and nothing of it is rounded."""
    D = 16
    start, positions = (1, D, 1, 0 if per_batch else 3, D, D, 0.125), 1 if per_batch else 4
    sizes = ((128, 120), (2.0, 1.0), (40.0, 40.0))
    head = BasisHeader(*start, 0.0078125, -6, False, False, *sizes, per_batch, False)
    shifts, scales, reaches = (np.full((1, D), value, np.uint8) for value in (0, 150, 200))
    one = Components(shifts[0], scales, reaches, vectors=(64 * np.eye(D)).astype(np.int16))
    return KltCodec(Basis(head, np.zeros((positions, D), np.int32), one, one))


def test_frames_of_a_fitted_codec_keep_their_bytes() -> None:
    pytest.importorskip("constriction")
    hidden, grid = plain_basis(False), plain_basis(True)
    positions = torch.arange(3).repeat(2)
    rows = HIDDEN.flatten(0, 1)
    frames = [
        *encode_activations_with(hidden, [ActivationsMessage(7, 2, 1, HIDDEN, MASK, LABELS, 10)]),
        *encode_gradients_with(grid, [GradientMessage(7, 2, 1, HIDDEN / 4096, 0.5, MASK)]),
        *encode_features([FeaturesMessage(7, 2, 1, rows, positions=positions)], hidden),
        *encode_features([FeatureGradientMessage(7, 2, 1, rows, 0.5, positions=positions)], grid),
    ]
    assert [kind_of(one) for one in frames] == [
        "coded activations", "coded gradient", "coded features", "coded feature gradient",
    ]  # fmt: skip
    assert digest(frames) == "796d17e5c4c9d908"
