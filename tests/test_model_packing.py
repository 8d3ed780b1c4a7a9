"""Texts that share rows: fewer rows, the same results, and no text that sees another."""

import json
from pathlib import Path

import pytest
import torch

import cutlayer
from cutlayer.errors import JobError
from cutlayer.model.bank import Segment
from cutlayer.model.packing import packed
from cutlayer.model.weights import load_model
from helpers import largest_difference, small_job
from tiny_models import (
    LANGUAGE,
    inputs_of,
    loss_of,
    random_adapter,
    settings,
    take_grads,
    targets_of,
    write,
)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", LANGUAGE)
def test_loss_and_gradients_are_those_of_a_row_for_each_text(
    tmp_path: Path, family: str, checkpointing: bool
) -> None:
    model = load_model(settings(write(tmp_path, family)), 0, 0, dtype=torch.float64)
    adapters = [random_adapter(model, seed) for seed in (1, 2)]
    inputs = inputs_of(model, 8)
    lengths = torch.tensor([12, 3, 5, 4, 2, 12, 6, 6])
    inputs["attention_mask"] = (torch.arange(12)[None] < lengths[:, None]).long()
    labels, mask = targets_of(model, inputs), inputs["attention_mask"].bool()
    found = []
    for packing in (False, True):
        model.use("float32", checkpointing, packing)
        route = [Segment(one, 4) for one in adapters]
        sent = model.device_forward(inputs, 1, route).hidden
        logits = model.server_forward(sent, mask, 1, route)
        loss = loss_of(logits, labels)
        loss.backward()
        grads = [take_grads(one) for one in adapters]
        found.append((loss.detach(), logits.detach()[mask], *grads))
    for one, other in zip(found[0][:2], found[1][:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    for one, other in zip(found[0][2:], found[1][2:], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert (one[name] - other[name]).norm() <= 1e-9 * one[name].norm()


def test_only_texts_of_one_adapter_share_a_row() -> None:
    lengths = torch.tensor([8, 3, 5, 2, 4, 4])
    mask = torch.arange(8)[None] < lengths[:, None]
    rows = packed(mask, [3, 3])
    assert rows is not None
    assert rows.rows == (2, 2)
    assert rows.valid.sum(1).tolist() == [8, 8, 8, 2]
    assert rows.texts[1].tolist() == [0] * 5 + [1] * 3
    assert rows.places[1].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    hidden = torch.randn(6, 8, 2) * mask[..., None]
    assert torch.equal(rows.unpack(rows.pack(hidden), 6), hidden)
    assert packed(torch.ones(2, 4, dtype=torch.bool), [2]) is None


def test_a_run_stays_the_same(tmp_path: Path) -> None:
    from test_u_shape import text_job, write_language

    model = write_language(tmp_path / "model")
    table = tmp_path / "t.jsonl"
    rows = [{"prompt": f"a : {'b' * n}", "completion": "c" * n} for n in range(1, 13)]
    table.write_text("\n".join(json.dumps(row) for row in rows * 2))
    plain, packing = (
        cutlayer.simulate(
            text_job(model, table, f"training.packing={value}", "model.tail=1"),
            out=tmp_path / value,
        )
        for value in ("false", "true")
    )
    assert largest_difference(plain.adapter, packing.adapter) < 1e-5
    assert [row.traffic for row in plain.rows] == [row.traffic for row in packing.rows]


def test_images_are_not_packed(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"training\.packing: is for language models"):
        cutlayer.simulate(small_job("training.packing=true"), out=tmp_path / "run")
