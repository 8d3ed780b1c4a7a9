"""Blocks that are computed again on the way back: the same results in less memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cutlayer.errors import JobError
from cutlayer.model import cost
from cutlayer.model.bank import Segment
from cutlayer.model.weights import load_model
from helpers import equal, small_job
from live_bytes import peak_bytes
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

FAMILIES = ["vit", "bert", "deberta-v2", "modernbert", "llama", "gpt2"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("checkpoints"), FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_stay_the_same_dropout_included(
    checkpoints: dict[str, Path], family: str
) -> None:
    job = settings(checkpoints[family], lora={"dropout": 0.3})
    model = load_model(job, CLASSES, 0, dtype=torch.float64)
    adapters = [random_adapter(model, seed) for seed in (1, 2)]
    inputs = inputs_of(model, 4)
    labels = targets_of(model, inputs)
    found = []
    for checkpointing in (False, True):
        model.use("float32", checkpointing)
        route = [Segment(one, 2, seed) for one, seed in zip(adapters, (3, 4), strict=True)]
        loss = loss_of(model(inputs, route), labels)
        loss.backward()
        found.append((loss.detach(), take_grads(adapters[0]), take_grads(adapters[1])))
    (loss, *grads), (again, *others) = found
    torch.testing.assert_close(loss, again, rtol=1e-12, atol=0)
    for one, other in zip(grads, others, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["sflora", "st-sflora-full"])
def test_runs_stay_the_same(tmp_path: Path, method: str) -> None:
    import cutlayer

    plain, again = (
        cutlayer.simulate(
            small_job(*changes, "training.rounds=1", method=method), out=tmp_path / name
        )
        for name, changes in (("plain", ()), ("again", ("training.checkpointing=true",)))
    )
    assert equal(plain.adapter, again.adapter)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("part", ["device", "server", "tail"])
def test_computed_memory_is_near_the_measured_peak(
    tmp_path: Path, part: str, checkpointing: bool
) -> None:
    """Activations of six blocks, 64 tokens and 16 samples, beside what tensors really took."""
    from tiny_models import write

    write(tmp_path / "m", "vit", num_hidden_layers=8, image_size=32, hidden_size=96,
          intermediate_size=384)  # fmt: skip
    job = settings(tmp_path / "m", 3, tail=2 if part == "tail" else None)
    model = load_model(job, CLASSES, 0).use("float32", checkpointing)
    batch = 16
    adapter, inputs = random_adapter(model, 0), inputs_of(model, batch)
    route = [Segment(adapter, batch)]
    hidden = model.device_forward(inputs, 3, route).hidden.detach().requires_grad_()

    def work() -> None:
        if part == "device":
            sent = model.device_forward(inputs, 3, route).hidden
            sent.backward(torch.ones_like(sent))
        elif part == "server":
            model.server_forward(hidden, None, 3, route).square().sum().backward()
        else:
            model.tail_forward(hidden, None, route).square().sum().backward()

    cost_of = {
        "device": lambda: cost.device_cost(model.spec, 3),
        "server": lambda: cost.server_cost(model.spec, 3),
        "tail": lambda: cost.tail_cost(model.spec),
    }[part]()
    found = cost_of.checkpointed() if checkpointing else cost_of
    moving = replace(found, parameters=0, adapter_parameters=0)
    computed = cost.memory_bytes(moving, model.spec, batch)
    measured = peak_bytes(work)
    assert 0.7 < computed / measured < 1.5, (computed, measured)
    if checkpointing and part != "tail":
        assert computed < 0.7 * cost.memory_bytes(
            replace(cost_of, parameters=0, adapter_parameters=0), model.spec, batch
        )


def test_full_training_cannot_run_blocks_again(tmp_path: Path) -> None:
    import cutlayer

    job = small_job("training.checkpointing=true", "method.train=full")
    with pytest.raises(JobError, match=r"training\.checkpointing: with method\.train full"):
        cutlayer.simulate(job, out=tmp_path / "run")
