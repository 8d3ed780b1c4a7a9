"""Full training of transformers: cut or not, pooled or not, the weights move as the unsplit's."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny_models
from cutlayer.errors import ModelError
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.export import load_adapter, save_adapter
from cutlayer.model.lora import Adapter
from cutlayer.model.weights import load_model
from tiny_models import (
    CLASSES,
    DEPTH,
    assert_same_step,
    family_of,
    inputs_of,
    is_text,
    labels_of,
    random_adapter,
    settings,
    split_step,
    take_grads,
    unsplit_logits,
    with_weights,
    write,
    write_all,
)

BATCH = 4
# DeBERTa's blocks share a table across the cut: only LoRA can train it there.
EVERY = [name for name in tiny_models.EVERY if family_of(name) != "deberta-v2"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("checkpoints"), EVERY)


def _load(path: Path, cut: int = 1, part: str = "whole", **more: object) -> CutModel:
    job = settings(path, cut, **more)  # type: ignore[arg-type]
    return load_model(job, CLASSES, 0, part, torch.float64, "full")  # type: ignore[arg-type]


def _unsplit_step(
    model: CutModel, adapter: Adapter, inputs: dict[str, Tensor], labels: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    whole = with_weights(model, adapter).requires_grad_(True)
    loss = F.cross_entropy(unsplit_logits(whole, model, inputs), labels)
    loss.backward()
    grads = {k: p.grad for k, p in whole.named_parameters() if p.grad is not None}
    return loss.detach(), grads


@pytest.mark.parametrize("family", EVERY)
def test_split_equals_unsplit_at_every_cut(checkpoints: dict[str, Path], family: str) -> None:
    model = _load(checkpoints[family])
    adapter = random_adapter(model, 1)
    inputs, labels = inputs_of(model, BATCH), labels_of(BATCH)
    loss, grads = _unsplit_step(model, adapter, inputs, labels)
    # A key's bias adds the same to every logit of a query: its gradient is zero but for rounding.
    still = {key for key, grad in grads.items() if grad.norm() < 1e-14}
    assert all(".k" in key and key.endswith("bias") for key in still)
    assert {key for key in adapter if model.trained(key)} == set(adapter) == set(grads)
    for cut in range(DEPTH + 1):
        found, ours = split_step(model, adapter, inputs, labels, cut)
        assert all(ours.pop(key).norm() < 1e-14 for key in still)
        moving = {key: grad for key, grad in grads.items() if key not in still}
        assert_same_step((found, ours), (loss, moving), 1e-10)


@pytest.mark.parametrize("sizes", [[2, 2, 2], [1, 3, 2], [3, 0, 3]])
@pytest.mark.parametrize("family", ["vit", "bert"])
def test_a_batch_that_mixes_devices_equals_one_by_one(
    checkpoints: dict[str, Path], family: str, sizes: list[int]
) -> None:
    model = _load(checkpoints[family])
    adapters = [random_adapter(model, seed) for seed in range(3)]
    inputs, labels = inputs_of(model, 6), labels_of(6)
    route = [Segment(a, size) for a, size in zip(adapters, sizes, strict=True)]
    mixed = model(inputs, route)
    F.cross_entropy(mixed, labels, reduction="sum").backward()
    found = [take_grads(adapter) for adapter in adapters]
    start = 0
    for adapter, size, grads in zip(adapters, sizes, found, strict=True):
        rows = slice(start, start := start + size)
        if not size:
            assert not grads
            continue
        own = model({k: v[rows] for k, v in inputs.items()}, [Segment(adapter, size)])
        torch.testing.assert_close(mixed[rows], own, rtol=1e-10, atol=1e-12)
        F.cross_entropy(own, labels[rows], reduction="sum").backward()
        expected = take_grads(adapter)
        assert grads.keys() == expected.keys() == adapter.keys()
        for key in expected:
            torch.testing.assert_close(grads[key], expected[key], rtol=1e-9, atol=1e-12)


def test_a_route_must_cover_the_batch_and_bring_a_head(checkpoints: dict[str, Path]) -> None:
    model = _load(checkpoints["vit"])
    with pytest.raises(ModelError, match="hold 3 samples but the batch has 4"):
        model(inputs_of(model, 4), [Segment(model.new_adapter(0), 3)])
    with pytest.raises(ModelError, match=r"classifier\.weight is missing"):
        model(inputs_of(model, 4), [Segment({}, 4)])


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("cut", [0, 2, DEPTH])
def test_parts_loaded_apart_are_the_whole(
    checkpoints: dict[str, Path], family: str, cut: int
) -> None:
    whole, device, server = (
        _load(checkpoints[family], cut, part) for part in ("whole", "device", "server")
    )
    adapter = whole.new_adapter(3)
    first, second = device.new_adapter(3), server.new_adapter(3)
    assert tuple(first) == whole.device_names(cut) == device.device_names(cut)
    assert tuple(second) == whole.server_names(cut) == server.server_names(cut)
    assert any("embeddings" in key for key in first)
    assert all(torch.equal(adapter[key], value) for key, value in (first | second).items())
    assert adapter.keys() == (first | second).keys() == whole.shapes().keys()
    assert all(tuple(adapter[key].shape) == shape for key, shape in device.shapes().items())
    inputs = inputs_of(whole, BATCH)
    sent = device.device_forward(inputs, cut, [Segment(first, BATCH)])
    logits = server.server_forward(sent.hidden, sent.mask, cut, [Segment(second, BATCH)])
    expected = whole(inputs, [Segment(adapter, BATCH)])
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)


def test_new_adapters_are_copies_of_the_checkpoint_with_a_new_head(
    checkpoints: dict[str, Path],
) -> None:
    model = _load(checkpoints["vit"])
    one, other = model.new_adapter(1), model.new_adapter(2)
    differ = {key for key in one if not torch.equal(one[key], other[key])}
    assert differ == {"classifier.weight"}
    lora = load_model(settings(checkpoints["vit"]), CLASSES, 0, dtype=torch.float64)
    assert torch.equal(one["classifier.weight"], lora.new_adapter(1)["classifier.weight"])
    held = model.module.state_dict()
    for key in one.keys() & held.keys():
        assert torch.equal(one[key], held[key])
        one[key].add_(1)
        assert not torch.equal(one[key], held[key])


def test_what_an_adapter_lacks_is_the_frozen_checkpoint(checkpoints: dict[str, Path]) -> None:
    model = _load(checkpoints["vit"], 2)
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    start = model.new_adapter(0)
    server = {key: start[key].clone().requires_grad_(True) for key in model.server_names(2)}
    inputs, labels = inputs_of(model, BATCH), labels_of(BATCH)
    expected = model(inputs, [Segment(start, BATCH)])
    sent = model.device_forward(inputs, 2, [Segment({}, BATCH)])
    assert not sent.hidden.requires_grad
    logits = model.server_forward(sent.hidden, None, 2, [Segment(server, BATCH)])
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    F.cross_entropy(logits, labels).backward()
    with torch.no_grad():
        for value in server.values():
            value -= 0.1 * value.grad
    assert not torch.allclose(model(inputs, [Segment(server, BATCH)]), expected)
    after = model.module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(value.grad is None for value in model.module.parameters())


@pytest.mark.parametrize("score", ["cls", "received"])
@pytest.mark.parametrize("family", ["vit", "bert"])
def test_tokens_are_scored_by_each_devices_own_attention(
    checkpoints: dict[str, Path], family: str, score: str
) -> None:
    model = _load(checkpoints[family])
    one, other = random_adapter(model, 0), random_adapter(model, 1)
    inputs = inputs_of(model, BATCH)
    mixed = model.device_forward(inputs, 2, [Segment(one, 1), Segment(other, 3)], score)  # type: ignore[arg-type]
    rest = {key: value[1:] for key, value in inputs.items()}
    own = model.device_forward(rest, 2, [Segment(other, 3)], score)  # type: ignore[arg-type]
    assert mixed.scores is not None
    assert own.scores is not None
    torch.testing.assert_close(mixed.scores[1:], own.scores, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(mixed.hidden[1:], own.hidden, rtol=1e-10, atol=1e-12)
    frozen = load_model(settings(checkpoints[family]), CLASSES, 0, dtype=torch.float64)
    plain = frozen.device_forward(inputs, 2, [Segment(frozen.new_adapter(0), BATCH)], score)  # type: ignore[arg-type]
    start = model.device_forward(inputs, 2, [Segment(model.new_adapter(0), BATCH)], score)  # type: ignore[arg-type]
    torch.testing.assert_close(start.scores, plain.scores, rtol=1e-10, atol=1e-12)


def test_a_side_for_lora_is_refused(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"model\.lora\.side: 'server' .* leave it at both"):
        _load(checkpoints["vit"], lora={"side": "server"})


@pytest.mark.parametrize(
    ("family", "size"),
    [(name, None if is_text(name) else 24) for name in EVERY] + [("vit", None), ("clip", None)],
)
def test_hugging_face_loads_the_export_and_gives_the_same_logits(
    checkpoints: dict[str, Path], tmp_path: Path, family: str, size: int | None
) -> None:
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    text = is_text(family)
    more = {"image_size": size} if size and not text else {}
    model = _load(checkpoints[family], **more)
    adapter = random_adapter(model, 0)
    classes = [f"class {i}" for i in range(CLASSES)]
    folder = save_adapter(adapter, model, tmp_path / "model", classes)
    auto = AutoModelForSequenceClassification if text else AutoModelForImageClassification
    loaded, found = auto.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    inputs = inputs_of(model, BATCH)
    with torch.no_grad():
        expected = model(inputs, [Segment(adapter, BATCH)])
        torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=1e-9, atol=1e-9)
    assert loaded.config.num_labels == CLASSES
    assert loaded.config.id2label == dict(enumerate(classes))
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float64"
    again = load_adapter(folder, model)
    assert again.keys() == adapter.keys()
    assert all(torch.equal(again[key], adapter[key]) for key in adapter)
    resumed = _load(folder).new_adapter(0)
    heads = model.spec.parts.head.modules
    assert all(torch.equal(resumed[k], adapter[k]) for k in adapter if k.split(".")[0] not in heads)


def test_blocks_that_share_a_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"method\.train: 'full' cannot divide .* lora"):
        _load(write(tmp_path, "deberta-v2"))


def test_an_export_of_another_model_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    vit, dino = (_load(checkpoints[family]) for family in ("vit", "dinov2"))
    folder = save_adapter(vit.new_adapter(0), vit, tmp_path / "model")
    with pytest.raises(ModelError, match="lacks dinov2"):
        load_adapter(folder, dino)
    with pytest.raises(ModelError, match=r"there is no .*adapter_model"):
        load_adapter(folder, load_model(settings(checkpoints["vit"]), CLASSES, 0))


def test_the_exports_inputs_are_prepared_as_the_bases(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "base", "vit")
    (path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3]}')
    model = _load(path)
    folder = save_adapter(model.new_adapter(0), model, tmp_path / "model")
    prepared = json.loads((folder / "preprocessor_config.json").read_text())
    assert prepared["image_mean"] == [0.1, 0.2, 0.3]
    side = model.spec.image_size  # which the base's own does not say
    assert prepared["size"] == {"height": side, "width": side}
