"""Frames of many devices made and read in one call: those of each device alone, byte for byte."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutlayer.errors import FrameError, RunError
from cutlayer.settings.method import Quantizer
from cutlayer.wire.adapter_frames import encode_adapter, encode_adapters
from cutlayer.wire.codec import (
    decode_activations,
    decode_gradient,
    encode_activations_with,
    encode_gradients_with,
)
from cutlayer.wire.codecs.quantized import QuantizedCodec
from cutlayer.wire.messages import ActivationsMessage, AdapterMessage, GradientMessage
from cutlayer.wire.opened import activations_of, gradients_of, open_activations, open_gradient

LEVELS = (("uniform", "nearest"), ("uniform", "stochastic"), ("gaussian", "nearest"))


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(count)]


@settings(max_examples=60)
@given(
    bits=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 16, 32]),
    levels=st.sampled_from(LEVELS),
    per=st.sampled_from(["token", "tensor"]),
    rotate=st.booleans(),
    width=st.sampled_from([3, 16, 33]),
    batches=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    padded=st.booleans(),
)
def test_a_pool_sends_and_reads_what_its_devices_would_alone(
    bits: int, levels: tuple[str, str], per: Any, rotate: bool, width: int, batches: list[int],
    padded: bool,
) -> None:  # fmt: skip
    name, rounding = levels
    quantizer = Quantizer(bits=bits, levels=name, rounding=rounding, per=per, rotate=rotate)  # type: ignore[arg-type]
    codec, up, down = QuantizedCodec(quantizer, 5), [], []
    for number, batch in enumerate(batches):
        hidden = numbers(number, batch, 3, width) * 10.0**number
        mask = numbers(number + 50, batch, 3) > 0 if padded else None
        labels = torch.arange(batch)
        up.append(ActivationsMessage(number, 1, 2, hidden, mask, labels, 4))
        down.append(GradientMessage(number, 1, 2, hidden, 0.5, mask))
    count = len(batches)
    frames = encode_activations_with(codec, up, generators(count))
    replies = encode_gradients_with(codec, down, generators(count))
    for number, rng in enumerate(generators(count)):
        assert frames[number] == encode_activations_with(codec, [up[number]], [rng])[0]
    for number, rng in enumerate(generators(count)):
        assert replies[number] == encode_gradients_with(codec, [down[number]], [rng])[0]
    together = activations_of([open_activations(frame) for frame in frames])
    for frame, found in zip(frames, together, strict=True):
        assert isinstance(found, ActivationsMessage)
        assert torch.equal(found.hidden, decode_activations(frame).hidden)
    answers = gradients_of([open_gradient(frame) for frame in replies])
    for frame, answer in zip(replies, answers, strict=True):
        assert isinstance(answer, GradientMessage)
        assert torch.equal(answer.gradient, decode_gradient(frame).gradient)


@pytest.mark.parametrize("bits", [4, 32])
def test_one_that_is_not_finite_is_named_among_many(bits: int) -> None:
    messages = [
        ActivationsMessage(number, 0, 0, numbers(number, 2, 3, 16), None, torch.arange(2), 4)
        for number in (4, 7, 9)
    ]
    messages[1].hidden[1, 2, 3] = torch.nan
    with pytest.raises(RunError, match="activations of device 7, round 0, step 0"):
        encode_activations_with(QuantizedCodec(Quantizer(bits=bits)), messages)  # type: ignore[arg-type]


@pytest.mark.parametrize("entropy", ["none", "zstd"])
def test_one_damaged_body_costs_the_others_nothing(entropy: Any) -> None:
    codec = QuantizedCodec(Quantizer(bits=1, entropy=entropy))
    messages = [
        GradientMessage(number, 0, 0, numbers(number, 4, 20, 16), 1.0) for number in range(3)
    ]
    messages[1].gradient.clamp_(0, 0)  # what zstandard makes short
    opened = [open_gradient(frame) for frame in encode_gradients_with(codec, messages)]
    broken = bytearray(opened[1].body)
    broken[-1] ^= 0xFF
    broken[:4] = b"\xff" * 4
    opened[1] = type(opened[1])(opened[1].header, memoryview(bytes(broken)), None)
    first, fault, last = gradients_of(opened)
    assert isinstance(first, GradientMessage)
    assert isinstance(fault, FrameError)
    assert isinstance(last, GradientMessage)
    assert torch.equal(first.gradient, gradients_of(opened[:1])[0].gradient)  # type: ignore[union-attr]


def test_adapters_that_share_their_tensors_are_frames_of_their_own() -> None:
    shared, own = {"w": numbers(1, 3, 5)}, {"w": numbers(2, 3, 5), "b": numbers(3, 4)}
    messages = [AdapterMessage(1, 0, 5, shared), AdapterMessage(2, 0, 6, shared)]
    messages.append(AdapterMessage(3, 0, 7, own))
    for bits in (16, 32):
        frames = encode_adapters(messages, bits)  # type: ignore[arg-type]
        assert frames == [encode_adapter(one, bits) for one in messages]  # type: ignore[arg-type]
