"""Many devices over one backbone: a mixed batch is the devices one by one, in little memory."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cutlayer.errors import ModelError
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter
from cutlayer.model.stack import AdapterStack
from cutlayer.model.weights import load_model
from cutlayer.seeds import derive
from peak_memory import peaks_of
from tiny_models import (
    CLASSES,
    CONFIGS,
    inputs_of,
    labels_of,
    loss_of,
    random_adapter,
    settings,
    targets_of,
    write,
)

Grads = list[dict[str, Tensor]]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: write(root / family, family) for family in CONFIGS}


def _take(adapters: list[Adapter]) -> Grads:
    grads = [{k: v.grad for k, v in a.items() if v.grad is not None} for a in adapters]
    for adapter in adapters:
        for value in adapter.values():
            value.grad = None
    return grads


def _mixed(
    model: CutModel, adapters: list[Adapter], sizes: list[int], dropout: bool = False
) -> tuple[Tensor, Grads]:
    """Logits, and gradients of the summed mean losses, of one pass over all devices."""
    inputs = inputs_of(model, sum(sizes))
    labels = targets_of(model, inputs)
    route = [
        Segment(adapter, size, derive(0, index) if dropout else None)
        for index, (adapter, size) in enumerate(zip(adapters, sizes, strict=True))
    ]
    logits = model(inputs, route)
    losses = map(loss_of, logits.split(sizes), labels.split(sizes))
    torch.stack(list(losses)).sum().backward()
    return logits.detach(), _take(adapters)


def _of_one_stack(
    model: CutModel, adapters: list[Adapter], sizes: list[int]
) -> tuple[Tensor, Grads]:
    """As `_mixed`, with the adapters as rows of one stack."""
    tensors = {
        key: torch.stack([adapter[key].detach() for adapter in adapters]).requires_grad_()
        for key in adapters[0]
    }
    stack = AdapterStack(tensors, len(adapters))
    inputs = inputs_of(model, sum(sizes))
    labels = targets_of(model, inputs)
    logits = model(inputs, list(map(Segment, stack.rows, sizes)))
    losses = map(loss_of, logits.split(sizes), labels.split(sizes))
    torch.stack(list(losses)).sum().backward()
    grads = {key: value.grad for key, value in tensors.items() if value.grad is not None}
    rows = range(len(adapters))
    return logits.detach(), [{key: grad[row] for key, grad in grads.items()} for row in rows]


def _one_by_one(
    model: CutModel,
    adapters: list[Adapter],
    sizes: list[int],
    dropout: bool = False,
    order: list[int] | None = None,
) -> tuple[Tensor, Grads]:
    inputs = inputs_of(model, sum(sizes))
    labels = targets_of(model, inputs)
    pieces = {key: value.split(sizes) for key, value in inputs.items()}
    logits: dict[int, Tensor] = {}
    for index in order or range(len(sizes)):
        route = [Segment(adapters[index], sizes[index], derive(0, index) if dropout else None)]
        own = model({key: value[index] for key, value in pieces.items()}, route)
        loss_of(own, labels.split(sizes)[index]).backward()
        logits[index] = own.detach()
    return torch.cat([logits[index] for index in range(len(sizes))]), _take(adapters)


def _assert_same(ours: tuple[Tensor, Grads], theirs: tuple[Tensor, Grads]) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-9, atol=1e-12)
    for found, expected in zip(ours[1], theirs[1], strict=True):
        assert found.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("sizes", [[2, 2, 2], [1, 3, 2]], ids=["even", "uneven"])
@pytest.mark.parametrize("family", list(CONFIGS))
def test_a_batch_that_mixes_devices_equals_one_by_one(
    checkpoints: dict[str, Path], family: str, sizes: list[int]
) -> None:
    model = load_model(settings(checkpoints[family]), CLASSES, 0, dtype=torch.float64)
    adapters = [random_adapter(model, seed) for seed in range(3)]
    found = _mixed(model, adapters, sizes)
    alone = _one_by_one(model, adapters, sizes)
    _assert_same(found, alone)
    _assert_same(_of_one_stack(model, adapters, sizes), alone)
    last = list(adapters[0])[-2]  # the head's weight, of a language model the last block's A
    assert not torch.allclose(adapters[0][last], adapters[1][last])
    same = model(inputs_of(model, 6), [Segment(adapters[0], 6)])
    assert not torch.allclose(found[0][-1], same[-1])


@pytest.mark.parametrize("sizes", [[2, 2, 2], [1, 3, 2]], ids=["even", "uneven"])
def test_dropout_masks_depend_on_the_device_alone(
    checkpoints: dict[str, Path], sizes: list[int]
) -> None:
    job = settings(checkpoints["vit"], lora={"dropout": 0.3})
    model = load_model(job, CLASSES, 0, dtype=torch.float64)
    adapters = [random_adapter(model, seed) for seed in range(3)]
    found = _mixed(model, adapters, sizes, dropout=True)
    _assert_same(found, _one_by_one(model, adapters, sizes, dropout=True, order=[2, 0, 1]))
    assert not torch.allclose(found[0], _mixed(model, adapters, sizes)[0])


def test_dropout_is_unbiased_and_scaled(checkpoints: dict[str, Path]) -> None:
    job = settings(checkpoints["vit"], 0, lora={"dropout": 0.5, "targets": ("q_proj",)})
    model = load_model(job, CLASSES, 0, dtype=torch.float64)
    adapter = random_adapter(model, 0)
    layer = model.module.get_submodule("vit.layers.0.attention.q_proj")
    x = torch.randn(1, 1, 24, dtype=torch.float64).expand(4000, 1, 24)
    with torch.no_grad(), model.bank.use([Segment(adapter, 4000)], 4000):
        still = layer(x)
    with torch.no_grad(), model.bank.use([Segment(adapter, 4000, 0)], 4000):
        dropped = layer(x)
    error = dropped.mean(0) - still[0]
    assert (dropped.std(0) > 0).all()
    assert (error.abs() < 5 * dropped.std(0) / 4000**0.5).all()


def test_layers_an_adapter_lacks_run_bare(checkpoints: dict[str, Path]) -> None:
    model = load_model(settings(checkpoints["vit"]), CLASSES, 0, dtype=torch.float64)
    full, other = random_adapter(model, 0), random_adapter(model, 1)
    some = {k: v for k, v in full.items() if "layers.1" in k or k.startswith("classifier")}
    zeroed = {k: v if k in some else torch.zeros_like(v) for k, v in full.items()}
    inputs = inputs_of(model, 4)
    found = model(inputs, [Segment(some, 2), Segment(other, 2)])
    expected = model(inputs, [Segment(zeroed, 2), Segment(other, 2)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_neighbours_on_one_adapter_share_its_gradient(checkpoints: dict[str, Path]) -> None:
    model = load_model(settings(checkpoints["vit"]), CLASSES, 0, dtype=torch.float64)
    adapter = random_adapter(model, 0)
    found = _mixed(model, [adapter, adapter], [2, 3])
    inputs, labels = inputs_of(model, 5), labels_of(5)
    logits = model(inputs, [Segment(adapter, 5)])
    (F.cross_entropy(logits[:2], labels[:2]) + F.cross_entropy(logits[2:], labels[2:])).backward()
    expected = _take([adapter])[0]
    for key, value in found[1][0].items():
        torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-12)


def test_a_route_must_cover_the_batch(checkpoints: dict[str, Path]) -> None:
    model = load_model(settings(checkpoints["vit"]), CLASSES, 0)
    with pytest.raises(ModelError, match="hold 3 samples but the batch has 4"):
        model(inputs_of(model, 4), [Segment(model.new_adapter(0), 3)])
    with pytest.raises(ModelError, match=r"classifier\.weight is missing"):
        model(inputs_of(model, 4), [Segment({}, 4)])


def test_new_adapters_change_nothing_yet_and_depend_on_the_seed(
    checkpoints: dict[str, Path],
) -> None:
    model = load_model(settings(checkpoints["vit"]), CLASSES, 0)
    first, again, other = model.new_adapter(1), model.new_adapter(1), model.new_adapter(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    key = "vit.layers.0.attention.q_proj.lora_A.weight"
    assert not torch.equal(first[key], other[key])
    bound = (1 / 24) ** 0.5  # kaiming uniform with a = sqrt 5
    assert 0.8 * bound < first[key].abs().max() <= bound
    head = {key: value for key, value in first.items() if key.startswith("classifier")}
    inputs = inputs_of(model, 2)
    torch.testing.assert_close(
        model(inputs, [Segment(first, 2)]), model(inputs, [Segment(head, 2)])
    )


@pytest.mark.parametrize("side", ["device", "server"])
def test_only_the_chosen_side_carries_lora(checkpoints: dict[str, Path], side: str) -> None:
    model = load_model(settings(checkpoints["vit"], 1, {"side": side}), CLASSES, 0)
    lora = {name for name in model.new_adapter(0) if "lora" in name}
    expected = model.device_names(1) if side == "device" else model.server_names(1)
    assert lora
    assert lora == {name for name in expected if "lora" in name}
    assert set(model.server_names(1)) >= {"classifier.weight", "classifier.bias"}


def test_a_side_without_blocks_is_refused(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"model\.lora\.side: 'device' has no blocks at cut 0"):
        load_model(settings(checkpoints["vit"], 0, {"side": "device"}), CLASSES, 0)


def test_targets_that_name_nothing_are_refused(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"model\.lora\.targets: 'qkv' is no linear layer"):
        load_model(settings(checkpoints["vit"], lora={"targets": ("qkv",)}), CLASSES, 0)


PEAK = r"""
from cutlayer.job import Lora, Model
from cutlayer.model.bank import Segment
from cutlayer.model.weights import load_model

def measure(path, devices):
    model = load_model(Model(path=path, image_size=28, cut=2, lora=Lora(rank=8)), 10, 0)
    adapters = [
        {key: value.requires_grad_() for key, value in model.new_adapter(seed).items()}
        for seed in range(devices)
    ]
    for start in range(0, devices, 4):
        pool = adapters[start:][:4]
        size = 4 // len(pool)
        inputs = {"pixel_values": torch.randn(4, 3, 28, 28)}
        model(inputs, [Segment(adapter, size) for adapter in pool]).square().sum().backward()
        for adapter in pool:
            for value in adapter.values():
                value.grad = None
    return sum(value.nbytes for adapter in adapters for value in adapter.values())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_256_devices_cost_one_backbone_and_their_adapters(shared_models: Path) -> None:
    path = str(shared_models / "dinov2-small")
    one, many = peaks_of(PEAK, (path, 1), (path, 256))
    for name, found in (("1 device", one), ("256 devices", many)):
        print(name, found)
    assert many.returned == 256 * one.returned
    # The adapters alone must show, or the measure is none.
    assert many.peak >= one.peak + many.returned // 2
    assert many.peak <= 1.2 * one.peak + many.returned
    assert many.net <= 1.2 * one.net + many.returned
