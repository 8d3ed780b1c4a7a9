"""Frames of the quantising codec are, byte for byte, what earlier versions sent."""

import hashlib

import pytest
import torch

from cutlayer.settings.method import Quantizer
from cutlayer.wire.adapter_frames import encode_adapter
from cutlayer.wire.codec import encode_activations, encode_gradient
from cutlayer.wire.messages import ActivationsMessage, AdapterMessage, GradientMessage

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
