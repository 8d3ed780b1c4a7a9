"""How long frames will be is told before they are made."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.settings.method import Quantizer
from cutlayer.wire.adapter_frames import encode_adapter
from cutlayer.wire.codec import encode_activations, encode_gradient
from cutlayer.wire.frame_bytes import activations_bytes, adapter_bytes, gradient_bytes
from cutlayer.wire.messages import ActivationsMessage, AdapterMessage, GradientMessage

# Three numbers in a header may each be four bytes shorter than reckoned.
SLACK = 12

quantizers = st.builds(
    Quantizer,
    bits=st.sampled_from([1, 2, 3, 4, 8, 16, 32]),
    levels=st.sampled_from(["uniform", "gaussian", "own_levels:cubic"]),
    per=st.sampled_from(["token", "tensor"]),
    rotate=st.booleans(),
    entropy=st.just("none"),
)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 9), st.sampled_from([4, 6, 16]))


@given(quantizers, shapes, st.integers(1, 300), st.booleans())
def test_frames_of_activations_and_gradients_are_as_long_as_told(
    quantizer: Quantizer, shape: tuple[int, int, int], classes: int, masked: bool
) -> None:
    hidden = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(shape[:2], dtype=torch.bool) if masked else None
    labels = torch.zeros(shape[0], dtype=torch.int64)
    message = ActivationsMessage(3, 1, 7, hidden, mask, labels, classes)
    frame = encode_activations(message, quantizer, rotation_seed=2**62)
    assert 0 <= activations_bytes(shape, quantizer, classes, masked) - len(frame) <= SLACK
    gradient = GradientMessage(3, 1, 7, hidden, 0.5, mask)
    back = encode_gradient(gradient, quantizer, rotation_seed=2**62)
    assert 0 <= gradient_bytes(shape, quantizer, masked) - len(back) <= SLACK


@pytest.mark.parametrize("bits", [16, 32])
def test_frames_of_adapters_are_as_long_as_told(bits: int) -> None:
    shapes = {"a.lora_A.weight": (4, 10), "a.lora_B.weight": (7, 4), "classifier.bias": (3,)}
    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    frame = encode_adapter(AdapterMessage(2, 0, 50, tensors), bits)
    assert 0 <= adapter_bytes(shapes.items(), bits) - len(frame) <= SLACK
    assert adapter_bytes([], bits) == 0
