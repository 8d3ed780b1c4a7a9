"""Frozen weights in 4 and 8 bits: what they compute, what they take, and where they are refused."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import cutlayer
from cutlayer.errors import ModelError
from cutlayer.model import cost
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.weights import load_model
from helpers import small_job
from tiny_models import (
    CLASSES,
    inputs_of,
    loss_of,
    random_adapter,
    settings,
    take_grads,
    targets_of,
    write_all,
)

pytest.importorskip("bitsandbytes")

from cutlayer.model.low_bits import LowBitLinear

FAMILIES = ["vit", "bert", "deberta-v2", "modernbert", "llama", "gpt2"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("checkpoints"), FAMILIES)


def rounded(model: CutModel, whole: CutModel) -> CutModel:
    """`whole` with the weights that `model` rounded, in float32."""
    found = dict(whole.module.named_modules())
    for name, layer in model.module.named_modules():
        if isinstance(layer, LowBitLinear):
            weight = layer.weight.T if whole.spec.parts.transposed else layer.weight
            found[name].weight = nn.Parameter(weight, requires_grad=False)
    return whole


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_rounded_weights(
    checkpoints: dict[str, Path], family: str, bits: int
) -> None:
    model = load_model(settings(checkpoints[family], frozen_bits=bits), CLASSES, 0)
    whole = load_model(settings(checkpoints[family]), CLASSES, 0)
    layers = [one for one in model.module.modules() if isinstance(one, LowBitLinear)]
    assert len(layers) == model.spec.depth * len(model.spec.linears)
    adapter, inputs = random_adapter(model, 1), inputs_of(model, 4)
    labels, route = targets_of(model, inputs), [Segment(adapter, 4)]
    found = []
    first = whole(inputs, route).detach()
    for one in (model, rounded(model, whole)):
        loss = loss_of(one(inputs, route), labels)
        loss.backward()
        found.append((loss.detach(), take_grads(adapter)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=0)
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(found[0][1][name], gradient, rtol=1e-3, atol=1e-5)
    assert not torch.equal(first, model(inputs, route))


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_take_what_the_cost_model_says(checkpoints: dict[str, Path], bits: int) -> None:
    for part in ("device", "server"):
        job = settings(checkpoints["llama"], 1, frozen_bits=bits)
        model = load_model(job, CLASSES, 0, part)  # type: ignore[arg-type]
        held = sum(p.nbytes for p in model.module.parameters())
        low = [one for one in model.module.modules() if isinstance(one, LowBitLinear)]
        held += sum(one.packed.nbytes + one.scales.nbytes for one in low)
        side = cost.device_cost if part == "device" else cost.server_cost
        computed = cost.weight_bytes(side(model.spec, 1), model.spec)
        assert held == pytest.approx(computed, rel=0.01)
        whole = load_model(settings(checkpoints["llama"], 1), CLASSES, 0, part)  # type: ignore[arg-type]
        assert held < 0.6 * sum(p.nbytes for p in whole.module.parameters())


def test_a_run_trains_on_few_bits_and_exports_the_checkpoints_own_weights(tmp_path: Path) -> None:
    job = small_job("model.frozen_bits=4", "training.rounds=1", "model.tail=1")
    found = cutlayer.simulate(job, out=tmp_path / "run")
    assert found.rows[0].accuracy is not None
    assert cutlayer.evaluate(found.folder).accuracy == pytest.approx(found.rows[0].accuracy)
    cutlayer.export(found.folder, out=tmp_path / "merged", merged=True)
    from safetensors.torch import load_file

    merged = load_file(tmp_path / "merged" / "model.safetensors")
    plain = load_model(job.model.model_copy(update={"frozen_bits": 32}), 10, 0)
    name = next(n for n, _ in plain.module.named_parameters() if "mlp.fc1.weight" in n)
    assert torch.equal(merged[name], dict(plain.module.named_parameters())[name])


def test_a_network_trains_on_few_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grpc")
    from fleet_helpers import served_to_all

    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    job = small_job("model.frozen_bits=8", "training.rounds=1", devices={"count": 2})
    alone = cutlayer.simulate(job, out=tmp_path / "alone")
    together = served_to_all(job, tmp_path / "net", 2)
    assert alone.adapter.keys() == together.adapter.keys()
    assert all(torch.equal(alone.adapter[n], together.adapter[n]) for n in alone.adapter)


def test_where_few_bits_are_not_there_a_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"model\.frozen_bits: 4 is for weights that stay"):
        cutlayer.simulate(small_job("model.frozen_bits=4", "method.train=full"), out=tmp_path / "a")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"need bitsandbytes, which is not installed: pip install"):
        cutlayer.simulate(small_job("model.frozen_bits=4"), out=tmp_path / "b")
