"""Masks of LoRA dropout: drawn together, and still each device's and each sample's own."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.model.bank import Segment
from cutlayer.model.dropout import masks_of
from cutlayer.model.weights import load_model
from cutlayer.seeds import derive
from tiny_models import CLASSES, inputs_of, random_adapter, settings, write

EVERY = 2**64 - 1


def _kept(seed: int, sample: int, token: int, place: int, p: float, layer: str, call: int) -> bool:
    """One number of a mask, in Python's whole numbers."""

    def rounds(number: int, *shifts: int) -> int:
        for shift, factor in zip(shifts, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB), strict=True):
            number = ((number ^ (number >> shift)) * factor) & EVERY
        return number

    key = rounds((seed + sample * 0x9E3779B97F4A7C15 + derive(call, layer)) & EVERY, 30, 27)
    key ^= key >> 31
    key = (key + token * 0xD1B54A32D192ED03 + place * 0xABC98388FB8FAC03) & EVERY
    bits = rounds(key, 32, 29)
    return (bits if bits < 2**63 else bits - 2**64) >= int(p * 2**64) - 2**63


@given(
    seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3),
    first=st.integers(0, 5),
    p=st.floats(0.01, 0.99),
    call=st.integers(1, 3),
)
def test_a_mask_is_its_formula_in_whole_numbers(
    seeds: list[int], first: int, p: float, call: int
) -> None:
    masks = masks_of([(seed, 2, first) for seed in seeds])
    assert masks is not None
    found = masks.drop(torch.ones(2 * len(seeds), 3, 4), p, "layer", call)
    for row, device in enumerate(seeds):
        for sample in range(2):
            for token in range(3):
                for place in range(4):
                    kept = _kept(device, first + sample, token, place, p, "layer", call)
                    expected = pytest.approx(1 / (1 - p)) if kept else 0
                    assert float(found[2 * row + sample, token, place]) == expected


def test_numbers_of_a_mask_tell_nothing_of_their_neighbours() -> None:
    masks = masks_of([(seed, 4, 0) for seed in range(32)])
    assert masks is not None
    p, ones = 0.25, torch.ones(128, 32, 64, dtype=torch.float64)
    one, other, again = (
        (masks.drop(ones, p, layer, call) > 0).double() - (1 - p)
        for layer, call in (("a", 1), ("b", 1), ("a", 2))
    )
    pairs = {
        "inputs": (one[..., 1:], one[..., :-1]),
        "tokens": (one[:, 1:], one[:, :-1]),
        "samples": (one[1:], one[:-1]),
        "devices": (one[4:], one[:-4]),
        "layers": (one, other),
        "calls": (one, again),
    }
    assert abs(float(one.mean())) < 5 * (p * (1 - p) / one.numel()) ** 0.5
    for name, (left, right) in pairs.items():
        assert abs(float((left * right).mean())) < 5 * p * (1 - p) / left.numel() ** 0.5, name


def test_segments_without_a_seed_drop_nothing() -> None:
    assert masks_of([(None, 2, 0), (None, 3, 0)]) is None
    masks = masks_of([(None, 2, 0), (7, 2, 0)])
    assert masks is not None
    x = torch.rand(4, 5, 6)
    found = masks.drop(x, 0.5, "layer", 1)
    assert torch.equal(found[:2], x[:2])
    assert not torch.equal(found[2:], x[2:])


def test_a_batch_in_parts_has_the_masks_of_the_whole() -> None:
    whole, parts = masks_of([(7, 3, 0)]), masks_of([(7, 1, 0), (7, 1, 1), (7, 1, 2)])
    assert whole is not None
    assert parts is not None
    x = torch.rand(3, 5, 6)
    assert torch.equal(whole.drop(x, 0.5, "layer", 1), parts.drop(x, 0.5, "layer", 1))


@pytest.mark.parametrize("packing", [False, True])
def test_longer_texts_of_others_change_no_mask(tmp_path: Path, packing: bool) -> None:
    job = settings(write(tmp_path, "llama"), lora={"dropout": 0.3})
    model = load_model(job, CLASSES, 0, dtype=torch.float64).use("float32", packing=packing)
    one, other = (random_adapter(model, seed) for seed in (1, 2))
    inputs = inputs_of(model, 6)
    lengths = torch.tensor([6, 2, 3, 12, 5, 4])
    inputs["attention_mask"] = (torch.arange(12)[None] < lengths[:, None]).long()
    mixed = model(inputs, [Segment(one, 3, 5), Segment(other, 3, 6)])
    short = {name: tensor[:3, :6] for name, tensor in inputs.items()}
    alone = model(short, [Segment(one, 3, 5)])
    there = short["attention_mask"].bool()
    torch.testing.assert_close(mixed[:3, :6][there], alone[there], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(alone[there], model(short, [Segment(one, 3, 4)])[there])
