"""A residual network cut between any two blocks: same steps, and every device's own statistics."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cutlayer.errors import ModelError
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.export import load_adapter, save_adapter
from cutlayer.model.families import describe
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.lora import Adapter
from cutlayer.model.weights import load_model
from tiny_models import (
    CLASSES,
    RESNET_DEPTH,
    RESNETS,
    assert_same_step,
    inputs_of,
    labels_of,
    random_adapter,
    settings,
    split_step,
    take_grads,
    with_weights,
    write_resnet,
)

BATCH = 4


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: write_resnet(root / kind, kind) for kind in RESNETS}


def _load(path: Path | str, cut: int = 1, part: str = "whole", **more: object) -> CutModel:
    job = settings(path, cut, **more)  # type: ignore[arg-type]
    return load_model(job, CLASSES, 0, part, torch.float64, "full")  # type: ignore[arg-type]


def _buffers(adapter: Adapter) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in adapter.items() if "running" in key}


def _restore(adapter: Adapter, buffers: dict[str, Tensor]) -> None:
    for key, value in buffers.items():
        adapter[key].copy_(value)


@pytest.mark.parametrize("kind", list(RESNETS))
def test_split_equals_unsplit_at_every_cut(checkpoints: dict[str, Path], kind: str) -> None:
    model = _load(checkpoints[kind])
    adapter = random_adapter(model, 1)
    start = _buffers(adapter)
    inputs, labels = inputs_of(model, BATCH), labels_of(BATCH)
    whole = with_weights(model, adapter).requires_grad_(True).train()
    loss = F.cross_entropy(whole(**inputs).logits, labels)
    loss.backward()
    expected = {key: value.grad for key, value in whole.named_parameters()}
    assert {key for key in adapter if model.trained(key)} == expected.keys()
    moved = {k: v for k, v in whole.named_buffers() if "running" in k}
    for cut in range(RESNET_DEPTH + 1):
        _restore(adapter, start)
        found = split_step(model, adapter, inputs, labels, cut)
        assert_same_step(found, (loss.detach(), expected), 1e-10)
        after = _buffers(adapter)
        assert after.keys() == moved.keys()
        for key, value in moved.items():
            torch.testing.assert_close(after[key], value, rtol=1e-10, atol=1e-12)
            assert not torch.allclose(after[key], start[key])


@pytest.mark.parametrize("kind", list(RESNETS))
def test_evaluation_is_hugging_faces_and_moves_nothing(
    checkpoints: dict[str, Path], kind: str
) -> None:
    model = _load(checkpoints[kind])
    adapter = random_adapter(model, 1)
    start = _buffers(adapter)
    inputs, route = inputs_of(model, BATCH), [Segment(adapter, BATCH)]
    with torch.no_grad():
        expected = with_weights(model, adapter).eval()(**inputs).logits
        logits = model(inputs, route)
        torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
        for cut in range(RESNET_DEPTH + 1):
            sent = model.device_forward(inputs, cut, route)
            at = model.spec.tokens_at(cut), model.spec.width_at(cut)
            assert sent.hidden.shape == (BATCH, *at)
            assert sent.mask is sent.scores is None
            found = model.server_forward(sent.hidden, None, cut, route)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(start[key], adapter[key]) for key in start)
    assert not torch.allclose(model(inputs, route), expected)


@pytest.mark.parametrize("sizes", [[2, 2, 2], [1, 3, 2]], ids=["even", "uneven"])
@pytest.mark.parametrize("cut", [0, 2, RESNET_DEPTH])
def test_a_batch_that_mixes_devices_equals_one_by_one(
    checkpoints: dict[str, Path], sizes: list[int], cut: int
) -> None:
    model = _load(checkpoints["basic"])
    adapters = [random_adapter(model, seed) for seed in range(3)]
    starts = [_buffers(adapter) for adapter in adapters]
    inputs, labels = inputs_of(model, 6), labels_of(6)
    route = [Segment(a, size) for a, size in zip(adapters, sizes, strict=True)]
    sent = model.device_forward(inputs, cut, route)
    mixed = model.server_forward(sent.hidden, None, cut, route)
    F.cross_entropy(mixed, labels, reduction="sum").backward()
    found = [take_grads(adapter) for adapter in adapters]
    ends = [_buffers(adapter) for adapter in adapters]
    begin = 0
    for adapter, size, before, after, grads in zip(
        adapters, sizes, starts, ends, found, strict=True
    ):
        _restore(adapter, before)
        rows = slice(begin, begin := begin + size)
        own = model({k: v[rows] for k, v in inputs.items()}, [Segment(adapter, size)])
        torch.testing.assert_close(mixed[rows], own, rtol=1e-10, atol=1e-12)
        F.cross_entropy(own, labels[rows], reduction="sum").backward()
        expected = take_grads(adapter)
        assert grads.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(grads[key], expected[key], rtol=1e-8, atol=1e-11)
        for key, value in _buffers(adapter).items():
            torch.testing.assert_close(after[key], value, rtol=1e-12, atol=1e-14)


def test_neighbours_on_one_adapter_keep_their_own_statistics(
    checkpoints: dict[str, Path],
) -> None:
    model = _load(checkpoints["basic"])
    adapter = random_adapter(model, 0)
    start = _buffers(adapter)
    inputs = inputs_of(model, 5)
    shared = model(inputs, [Segment(adapter, 2), Segment(adapter, 3)])
    after = _buffers(adapter)
    _restore(adapter, start)
    pieces = inputs["pixel_values"].split([2, 3])
    apart = [model({"pixel_values": x}, [Segment(adapter, len(x))]) for x in pieces]
    torch.testing.assert_close(shared, torch.cat(apart), rtol=1e-10, atol=1e-12)
    for key, value in _buffers(adapter).items():
        torch.testing.assert_close(after[key], value, rtol=1e-12, atol=1e-14)


def test_one_sample_is_trained_by_running_statistics_where_it_has_no_variance(
    checkpoints: dict[str, Path],
) -> None:
    model = _load(checkpoints["basic"])
    adapter = random_adapter(model, 0)
    start = _buffers(adapter)
    F.cross_entropy(model(inputs_of(model, 1), [Segment(adapter, 1)]), labels_of(1)).backward()
    grads = take_grads(adapter)
    assert all(grad.isfinite().all() for grad in grads.values())
    assert grads["resnet.embedder.embedder.convolution.weight"].norm() > 0
    still = {key for key, value in start.items() if torch.equal(adapter[key], value)}
    assert still == {key for key in start if ".stages.2." in key}  # its maps have one position


def test_a_frozen_device_keeps_the_checkpoints_statistics(checkpoints: dict[str, Path]) -> None:
    model = _load(checkpoints["basic"], 2)
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    adapter = random_adapter(model, 0)
    server = {key: adapter[key] for key in model.server_names(2)}
    inputs = inputs_of(model, BATCH)
    sent = model.device_forward(inputs, 2, [Segment({}, BATCH)])
    with torch.no_grad():
        still = model.device_forward(inputs, 2, [Segment({}, BATCH)])
    assert torch.equal(sent.hidden, still.hidden)
    assert not sent.hidden.requires_grad
    logits = model.server_forward(sent.hidden, None, 2, [Segment(server, BATCH)])
    F.cross_entropy(logits, labels_of(BATCH)).backward()
    after = model.module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_statistics_that_ask_for_a_gradient_do_not_break_training(
    checkpoints: dict[str, Path],
) -> None:
    model = _load(checkpoints["basic"])
    adapter = {key: value.requires_grad_(True) for key, value in model.new_adapter(0).items()}
    model(inputs_of(model, BATCH), [Segment(adapter, BATCH)]).sum().backward()
    assert all((value.grad is None) == ("running" in key) for key, value in adapter.items())


@pytest.mark.parametrize("kind", list(RESNETS))
@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_parts_loaded_apart_are_the_whole(
    checkpoints: dict[str, Path], kind: str, weights: str
) -> None:
    for cut in range(RESNET_DEPTH + 1):
        whole, device, server = (
            _load(checkpoints[kind], cut, part, weights=weights)
            for part in ("whole", "device", "server")
        )
        adapter = whole.new_adapter(3)
        first, second = device.new_adapter(3), server.new_adapter(3)
        assert tuple(first) == whole.device_names(cut)
        assert tuple(second) == whole.server_names(cut)
        assert all(torch.equal(adapter[key], value) for key, value in (first | second).items())
        assert adapter.keys() == (first | second).keys() == whole.shapes().keys()
        assert (server.dtype, server.compute) == (torch.float64, torch.device("cpu"))
        inputs = inputs_of(whole, BATCH)
        with torch.no_grad():
            sent = device.device_forward(inputs, cut, [Segment(first, BATCH)])
            logits = server.server_forward(sent.hidden, None, cut, [Segment(second, BATCH)])
            expected = whole(inputs, [Segment(adapter, BATCH)])
        torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)


def test_pretrained_weights_and_statistics_are_the_checkpoints(
    checkpoints: dict[str, Path],
) -> None:
    from safetensors.torch import load_file

    stored = load_file(checkpoints["basic"] / "model.safetensors")
    adapter = load_model(settings(checkpoints["basic"]), CLASSES, 0, train="full").new_adapter(0)
    expected = {k: v for k, v in stored.items() if "num_batches" not in k}
    assert adapter.keys() == expected.keys()
    assert all(torch.equal(adapter[k], v) for k, v in expected.items() if "classifier" not in k)


@pytest.mark.parametrize(("size", "channels"), [(None, 3), (28, 1), (33, 4), (1, 3)])
def test_any_image_size_and_channels(tmp_path: Path, size: int | None, channels: int) -> None:
    path = write_resnet(tmp_path, num_channels=channels)
    model = _load(path, 0, image_size=size)
    route = [Segment(random_adapter(model, 0), 2)]
    inputs = inputs_of(model, 2)
    assert inputs["pixel_values"].shape[1:] == (channels, size or 16, size or 16)
    whole = model(inputs, route)
    for cut in range(RESNET_DEPTH + 1):
        sent = model.device_forward(inputs, cut, route)
        at = replace(model.spec, cut=cut)
        assert sent.hidden.shape[1:] == (at.tokens, at.width) == (at.patches, at.width_at(cut))
        found = model.server_forward(sent.hidden, None, cut, route)
        torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-9)


def test_the_bundled_resnet18_has_nine_cut_points() -> None:
    spec = describe(settings("resnet18", 3), 10)
    assert (spec.depth, spec.modality, spec.prefix, spec.image_size) == (8, "image", 0, 32)
    maps = [(spec.tokens_at(cut), spec.width_at(cut)) for cut in range(9)]
    assert maps == [(64, 64)] * 3 + [(16, 128)] * 2 + [(4, 256)] * 2 + [(1, 512)] * 2
    assert (spec.tokens, spec.patches, spec.width) == (16, 16, 128)
    model = load_model(settings("resnet18", 3, weights="random"), 10, 0, train="full")
    assert model.train == "full"
    adapter = model.new_adapter(0)
    # ResNet-18's 11,181,642 weights for 10 classes, and its 4,800 means and variances each.
    assert sum(v.numel() for k, v in adapter.items() if model.trained(k)) == 11_181_642
    assert sum(v.numel() for v in _buffers(adapter).values()) == 2 * 4_800
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    logits = model(Preprocessor(model.spec)(images), [Segment(adapter, 2)])
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_it_learns_through_the_cut(tmp_path: Path) -> None:
    model = _load(write_resnet(tmp_path), 2, weights="random")
    adapter = {k: v.requires_grad_(model.trained(k)) for k, v in model.new_adapter(0).items()}
    trained = [value for key, value in adapter.items() if model.trained(key)]
    optimizer = torch.optim.SGD(trained, lr=0.05, momentum=0.9)
    labels = labels_of(20)
    pixels = inputs_of(model, 20)["pixel_values"] + labels[:, None, None, None]
    for _ in range(60):
        split_loss = _step(model, adapter, {"pixel_values": pixels}, labels)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        logits = model({"pixel_values": pixels}, [Segment(adapter, 20)])
    assert split_loss < 0.2
    assert (logits.argmax(1) == labels).double().mean() > 0.9


def _step(model: CutModel, adapter: Adapter, inputs: dict[str, Tensor], labels: Tensor) -> float:
    route = [Segment(adapter, len(labels))]
    sent = model.device_forward(inputs, 2, route)
    hidden = sent.hidden.detach().requires_grad_(True)
    loss = F.cross_entropy(model.server_forward(hidden, None, 2, route), labels)
    loss.backward()
    sent.hidden.backward(hidden.grad)
    return loss.item()


@pytest.mark.parametrize("size", [None, 24])
def test_hugging_face_loads_the_export_and_gives_the_same_logits(
    checkpoints: dict[str, Path], tmp_path: Path, size: int | None
) -> None:
    from transformers import AutoModelForImageClassification

    model = _load(checkpoints["basic"], image_size=size)
    adapter = random_adapter(model, 0)
    folder = save_adapter(adapter, model, tmp_path / "model")
    loaded, found = AutoModelForImageClassification.from_pretrained(
        folder, dtype=torch.float64, output_loading_info=True
    )
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    inputs = inputs_of(model, BATCH)
    with torch.no_grad():
        expected = model(inputs, [Segment(adapter, BATCH)])
        torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=1e-9, atol=1e-9)
    again = load_adapter(folder, model)
    assert again.keys() == adapter.keys()
    assert all(torch.equal(again[key], adapter[key]) for key in adapter)
    assert describe(settings(folder), CLASSES).image_size == (size or 16)


def test_what_a_resnet_cannot_do_is_one_sentence(checkpoints: dict[str, Path]) -> None:
    path = checkpoints["basic"]
    with pytest.raises(ModelError, match=r"^method\.train: 'lora' .* set method\.train to full"):
        load_model(settings(path), CLASSES, 0)
    with pytest.raises(ModelError, match=r"^model\.path: resnet18 .* take model\.weights random"):
        _load("resnet18")
    with pytest.raises(ModelError, match=r"^model\.cut: 5 is beyond the 4 blocks"):
        describe(settings(path, 5), CLASSES)
    model = _load(path)
    route = [Segment(model.new_adapter(0), 2)]
    for cut in (0, 2):
        with pytest.raises(ModelError, match=r"^method\.tokens\.keep: .* has no attention"):
            model.device_forward(inputs_of(model, 2), cut, route, score="cls")
    hidden = model.device_forward(inputs_of(model, 2), 2, route).hidden
    with pytest.raises(ModelError, match="7 tokens of width 6 are not the 16 of 6"):
        model.server_forward(hidden[:, :7], None, 2, route)
    small = {"pixel_values": torch.zeros(2, 3, 8, 8)}
    with pytest.raises(ModelError, match=r"8 x 8 pixels do not fit a model loaded for 16"):
        model(small, route)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_type": "odd"}, "layer_type 'odd' is neither basic nor bottleneck"),
        ({"depths": [2, 1]}, "do not belong to hidden_sizes"),
        ({"depths": [2, 0, 1]}, "do not belong to hidden_sizes"),
        ({"embedding_size": "wide"}, "invalid literal"),
    ],
)
def test_a_bad_config_is_one_sentence(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    import json

    path = write_resnet(tmp_path)
    config = json.loads((path / "config.json").read_text()) | change
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message) as caught:
        describe(settings(path), CLASSES)
    assert str(caught.value).startswith("model.path: ")
    assert "\n" not in str(caught.value)


def test_describe_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\n"
        "from types import SimpleNamespace as Box\n"
        "from cutlayer.model.families import describe\n"
        "from cutlayer.model import cost\n"
        "model = Box(path='resnet18', weights='random', image_size=None, max_tokens=9, cut=1,\n"
        "            aspect='checkpoint', tail=None, frozen_bits=32,\n"
        "            lora=Box(targets='auto', rank=4, side='both'))\n"
        "spec = describe(model, 5)\n"
        "assert cost.whole_cost(spec, 'full').forward_flops > 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
