"""The cost of full training, and of a frozen device, against torch's own counters."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import tiny_models
from cutlayer.errors import ModelError
from cutlayer.model import cost
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.families import ModelSpec, Train, describe
from cutlayer.model.lora import Adapter
from cutlayer.model.weights import load_model
from tiny_models import (
    CLASSES,
    DEPTH,
    RESNET_DEPTH,
    RESNETS,
    family_of,
    inputs_of,
    random_adapter,
    settings,
    write_all,
    write_resnet,
)

BATCH = 2
TRANSFORMERS = [name for name in tiny_models.EVERY if family_of(name) != "deberta-v2"]
EVERY = [*TRANSFORMERS, *RESNETS]
AT_EVERY_CUT = [
    (name, cut)
    for name in EVERY
    for cut in (range(1 + RESNET_DEPTH) if name in RESNETS else (0, 2, DEPTH))
]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    made = write_all(root, TRANSFORMERS)
    return made | {kind: write_resnet(root / kind, kind) for kind in RESNETS}


def _frozen(spec: ModelSpec, cut: int) -> ModelSpec:
    """As the run room asks for the cost of a device that trains nothing."""
    return replace(spec, cut=cut, lora=spec.lora.model_copy(update={"side": "server"}))


def _count(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _counted(model: CutModel, cut: int, frozen: bool) -> list[int]:
    """FLOPs of device forward, server forward, server backward and device backward."""
    adapter = random_adapter(model, 0)
    device: Adapter = {} if frozen else {name: adapter[name] for name in model.device_names(cut)}
    server = {name: adapter[name] for name in model.server_names(cut)}
    inputs, held = inputs_of(model, BATCH), dict[str, torch.Tensor]()

    def device_forward() -> None:
        held["sent"] = model.device_forward(inputs, cut, [Segment(device, BATCH)]).hidden

    def server_forward() -> None:
        held["hidden"] = held["sent"].detach().requires_grad_(bool(device))
        mask = inputs["attention_mask"].bool() if "attention_mask" in inputs else None
        logits = model.server_forward(held["hidden"], mask, cut, [Segment(server, BATCH)])
        held["loss"] = logits.square().sum()

    def device_backward() -> None:
        if device:
            held["sent"].backward(held["hidden"].grad)

    # Fused attention is not in the CPU counter's table; the plain one is made of counted products.
    with sdpa_kernel(SDPBackend.MATH):
        return [
            _count(device_forward),
            _count(server_forward),
            _count(lambda: held["loss"].backward()),
            _count(device_backward),
        ]


def _estimated(spec: ModelSpec, cut: int, train: Train) -> list[int]:
    device = cost.device_cost(spec, cut, train)
    server = cost.server_cost(spec, cut, train=train)
    flops = (
        device.forward_flops,
        server.forward_flops,
        server.backward_flops,
        device.backward_flops,
    )
    return [BATCH * count for count in flops]


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize(("name", "cut"), AT_EVERY_CUT)
def test_flops_are_those_that_torch_counts(
    checkpoints: dict[str, Path], name: str, cut: int, frozen: bool
) -> None:
    model = load_model(settings(checkpoints[name], cut), CLASSES, 0, train="full")
    spec = _frozen(model.spec, cut) if frozen else model.spec
    counted = _counted(model, cut, frozen)
    assert _estimated(spec, cut, "full") == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize(
    ("name", "cut"), [(n, c) for n, c in AT_EVERY_CUT if n not in RESNETS and c < DEPTH]
)
def test_a_frozen_device_of_a_model_with_lora_on_both_sides(
    checkpoints: dict[str, Path], name: str, cut: int
) -> None:
    model = load_model(settings(checkpoints[name], 2), CLASSES, 0)
    spec = _frozen(model.spec, cut)
    assert _estimated(spec, cut, "lora") == pytest.approx(_counted(model, cut, True), rel=0.01)
    device, server = cost.device_cost(spec, cut), cost.server_cost(spec, cut)
    both = cost.server_cost(model.spec, cut)
    assert (device.adapter_parameters, device.backward_flops, device.activation_bytes) == (0, 0, 0)
    assert device.parameters == cost.device_cost(model.spec, cut).parameters
    assert server.adapter_parameters == both.adapter_parameters
    if cut:  # with a device that trains, the gradient at the cut is wanted too
        assert server.backward_flops < both.backward_flops


@pytest.mark.parametrize(("name", "cut"), AT_EVERY_CUT)
def test_parameters_are_those_of_the_adapters(
    checkpoints: dict[str, Path], name: str, cut: int
) -> None:
    model = load_model(settings(checkpoints[name], cut), CLASSES, 0, train="full")
    shapes = model.shapes()
    for names, part in (
        (model.device_names(cut), cost.device_cost(model.spec, cut, "full")),
        (model.server_names(cut), cost.server_cost(model.spec, cut, train="full")),
        (tuple(shapes), cost.whole_cost(model.spec, "full")),
    ):
        numbers = sum(torch.Size(shapes[key]).numel() for key in names)
        assert (part.parameters, part.adapter_parameters) == (0, numbers)
    kept = cost.device_cost(_frozen(model.spec, cut), cut, "full")
    held = sum(torch.Size(shapes[key]).numel() for key in model.device_names(cut))
    assert (kept.parameters, kept.adapter_parameters) == (held, 0)


def _saved_bytes(adapter: Adapter, run: Callable[[], object]) -> int:
    """What autograd keeps of a forward pass, besides the weights."""
    weights = {value.untyped_storage().data_ptr() for value in adapter.values()}
    kept: dict[int, int] = {}
    tensors = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # Token ids are integers; so are the indices of max pooling, which count. Vectors are the
        # means and deviations of a whole batch.
        counts = tensor.is_floating_point() or tensor.dim() == 4
        if storage.data_ptr() not in weights and counts and tensor.dim() > 1:
            kept[storage.data_ptr()] = storage.nbytes()
            tensors.append(tensor)  # so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(kept.values())


@pytest.mark.parametrize("name", EVERY)
def test_activation_bytes_are_those_that_autograd_keeps(
    checkpoints: dict[str, Path], name: str
) -> None:
    batch, cut = 8, 2
    model = load_model(settings(checkpoints[name], cut), CLASSES, 0, train="full")
    adapter = random_adapter(model, 0)
    inputs, route = inputs_of(model, batch), [Segment(adapter, batch)]
    if "attention_mask" in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    hidden = model.device_forward(inputs, cut, route).hidden.detach().requires_grad_(True)
    mask = inputs["attention_mask"].bool() if "attention_mask" in inputs else None
    saved = [
        _saved_bytes(adapter, lambda: model(inputs, route)),
        _saved_bytes(adapter, lambda: model.device_forward(inputs, cut, route)),
        _saved_bytes(adapter, lambda: model.server_forward(hidden, mask, cut, route)),
    ]
    parts = [
        cost.whole_cost(model.spec, "full"),
        cost.device_cost(model.spec, cut, "full"),
        cost.server_cost(model.spec, cut, train="full"),
    ]
    assert [batch * part.activation_bytes for part in parts] == pytest.approx(saved, rel=0.05)


def test_the_bundled_resnet18_in_numbers() -> None:
    spec = describe(settings("resnet18", 2, image_size=224), 1000)
    whole = cost.whole_cost(spec, "full")
    # torchvision's figures: 11,689,512 weights and 1.814 G multiply-adds at 224 pixels.
    assert whole.adapter_parameters - 2 * 4_800 == 11_689_512
    assert whole.forward_flops / 2 == pytest.approx(1.814e9, rel=1e-3)
    assert cost.crossing_bytes(spec, 3, bits=8) == 3 * 56 * 56 * 64
    assert cost.crossing_bytes(spec, 3, bits=8, cut=8) == 3 * 7 * 7 * 512
    parts = [cost.device_cost(spec, cut, "full") for cut in range(9)]
    memory = [cost.memory_bytes(part, spec, 4) for part in parts]
    assert memory == sorted(memory)
    assert cost.memory_bytes(whole, spec, 4) > memory[-1]
    joined = [
        part.forward_flops + cost.server_cost(spec, cut, train="full").forward_flops
        for cut, part in enumerate(parts)
    ]
    assert set(joined) == {whole.forward_flops}


def test_lora_has_no_cost_on_a_resnet() -> None:
    with pytest.raises(ModelError, match=r"method\.train: 'lora'"):
        cost.device_cost(describe(settings("resnet18", 2), 10), 2)


def test_fewer_tokens_cost_a_fully_trained_server_less(checkpoints: dict[str, Path]) -> None:
    spec = describe(settings(checkpoints["vit"], 1), CLASSES)
    full, few = (cost.server_cost(spec, 1, tokens, "full") for tokens in (None, 6))
    assert few.forward_flops < 0.5 * full.forward_flops
    assert few.adapter_parameters == full.adapter_parameters
    assert few.activation_bytes < 0.5 * full.activation_bytes
