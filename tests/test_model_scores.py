"""Token scores are the attention of the last device block, for images and padded texts."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cutlayer.errors import ModelError
from cutlayer.model import attention
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.weights import load_model
from tiny_models import CLASSES, inputs_of, random_adapter, settings, write

BATCH, CUT = 3, 2


@pytest.fixture(
    scope="module", params=["vit", "deit", "dinov2_with_registers", "bert", "distilbert", "clip"]
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CutModel:
    path = write(tmp_path_factory.mktemp("checkpoint"), request.param)
    return load_model(settings(path, CUT), CLASSES, 0, dtype=torch.float64)


def _attention(model: CutModel, inputs: dict[str, Tensor], route: list[Segment]) -> Tensor:
    """[B,H,T,T] of the last device block, by definition."""
    spec = model.spec
    before = model.device_forward(inputs, CUT - 1, route)
    block = model.module.get_submodule(spec.block_name(CUT - 1))
    hidden = before.hidden
    if not spec.parts.post_norm:
        names = ("norm1", "layernorm_before", "layer_norm1")
        hidden = next(getattr(block, name) for name in names if hasattr(block, name))(hidden)
    with model.bank.use(route, BATCH):
        q, k = (
            block.get_submodule(path)(hidden).unflatten(-1, (spec.heads, -1)).transpose(1, 2)
            for path in (spec.parts.query, spec.parts.key)
        )
    logits = q @ k.transpose(2, 3) / (spec.width // spec.heads) ** 0.5
    if before.mask is not None:
        logits = logits.masked_fill(~before.mask[:, None, None], -torch.inf)
    return logits.softmax(-1)


def test_cls_scores_are_the_cls_attention_over_tokens(model: CutModel) -> None:
    inputs, route = inputs_of(model, BATCH), [Segment(random_adapter(model, 0), BATCH)]
    cls = _attention(model, inputs, route)[:, :, 0, model.spec.prefix :]
    expected = (cls / cls.sum(-1, keepdim=True)).mean(1)
    found = model.device_forward(inputs, CUT, route, score="cls")
    torch.testing.assert_close(found.scores, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.hidden, model.device_forward(inputs, CUT, route).hidden)


@pytest.mark.parametrize("chunk", [4, 64])
def test_received_scores_are_the_mean_attention_received(
    model: CutModel, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "QUERY_CHUNK", chunk)
    inputs, route = inputs_of(model, BATCH), [Segment(random_adapter(model, 0), BATCH)]
    full = _attention(model, inputs, route).mean(1)
    if "attention_mask" in inputs:
        full = full * inputs["attention_mask"][:, :, None]
    received = full.sum(1)[:, model.spec.prefix :]
    expected = received / received.sum(-1, keepdim=True)
    found = model.device_forward(inputs, CUT, route, score="received").scores
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("score", ["cls", "received"])
def test_gradients_flow_through_the_scores(model: CutModel, score: str) -> None:
    inputs, adapter = inputs_of(model, BATCH), random_adapter(model, 0)
    route = [Segment(adapter, BATCH)]
    found = model.device_forward(inputs, CUT, route, score=score).scores
    weights = torch.linspace(0, 1, found.shape[1], dtype=found.dtype)
    (found * weights).sum().backward()
    q = f"{model.spec.block_name(CUT - 1)}.{model.spec.parts.query}.lora_A.weight"
    gradient = adapter[q].grad
    assert gradient is not None
    full = _attention(model, inputs, route)
    prefix = model.spec.prefix
    if score == "cls":
        cls = full[:, :, 0, prefix:]
        again = (cls / cls.sum(-1, keepdim=True)).mean(1)
    else:
        mask = inputs.get("attention_mask", torch.ones(full.shape[0], full.shape[2]))
        received = (full.mean(1) * mask[:, :, None]).sum(1)[:, prefix:]
        again = received / received.sum(-1, keepdim=True)
    (expected,) = torch.autograd.grad((again * weights).sum(), adapter[q])
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-12)


def test_padding_gets_no_score(tmp_path: Path) -> None:
    model = load_model(settings(write(tmp_path, "bert"), CUT), CLASSES, 0)
    inputs, route = inputs_of(model, BATCH), [Segment(random_adapter(model, 0), BATCH)]
    padding = inputs["attention_mask"][:, model.spec.prefix :] == 0
    assert padding.any()
    for score in ("cls", "received"):
        found = model.device_forward(inputs, CUT, route, score=score).scores
        assert found[padding].abs().max() == 0
        torch.testing.assert_close(found.sum(1), torch.ones(BATCH))


def test_no_scores_without_a_block_on_the_device(model: CutModel) -> None:
    route = [Segment(model.new_adapter(0), BATCH)]
    with pytest.raises(ModelError, match=r"model\.cut: 0 leaves the device no attention"):
        model.device_forward(inputs_of(model, BATCH), 0, route, score="cls")


@pytest.mark.parametrize(
    ("family", "score", "message"),
    [
        ("modernbert", "received", "needs the position of each token in its blocks"),
        ("deberta-v2", "cls", "needs the position of each token in its blocks"),
        ("dinov3_vit", "cls", "needs the position of each token in its blocks"),
        ("siglip", "cls", "has no CLS token: take received"),
    ],
)
def test_models_without_a_use_for_scores_say_why(
    tmp_path: Path, family: str, score: str, message: str
) -> None:
    model = load_model(settings(write(tmp_path, family), CUT), CLASSES, 0)
    route = [Segment(model.new_adapter(0), BATCH)]
    with pytest.raises(ModelError, match=message):
        model.device_forward(inputs_of(model, BATCH), CUT, route, score=score)
