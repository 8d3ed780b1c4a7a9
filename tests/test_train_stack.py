"""Adapters that train as rows of one stack move as each would by itself."""

import pytest
import torch
from torch import Tensor

from cutlayer.settings.training import Training
from cutlayer.train.schedule import rate_at
from cutlayer.train.trained_stack import TrainedStack

STEPS = [4, 2, 3, 4]


def gradient(row: int, step: int, shape: tuple[int, ...]) -> Tensor:
    rng = torch.Generator().manual_seed(100 * row + step)
    return torch.randn(shape, generator=rng)


def alone(training: Training, row: int, start: dict[str, Tensor]) -> dict[str, Tensor]:
    """Torch's own optimiser, for one adapter."""
    own = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.SGD
    extra = {"momentum": training.momentum} if kind is torch.optim.SGD else {}
    optimizer = kind(own.values(), lr=1.0, weight_decay=training.weight_decay, **extra)
    for step in range(STEPS[row]):
        for name, tensor in own.items():
            tensor.grad = gradient(row, step, start[name].shape)
            if training.proximal:
                tensor.grad += training.proximal * (tensor.detach() - start[name])
        if training.clip_gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(own.values(), training.clip_gradient_norm)
        optimizer.param_groups[0]["lr"] = rate_at(training, 0, step, STEPS[row])
        optimizer.step()
    return {name: tensor.detach() for name, tensor in own.items()}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 0.1, "schedule": "cosine"},
        {"optimizer": "sgd", "momentum": 0.9, "lr": 0.1, "warmup_steps": 2},
        {"proximal": 0.5, "clip_gradient_norm": 0.7},
    ],
)
def test_each_row_moves_as_an_optimiser_of_its_own_would(settings: dict) -> None:
    training = Training(**{"lr": 0.05, **settings})
    starts = [{"b": torch.randn(3, 2), "a": torch.randn(5)} for _ in STEPS]
    stack = TrainedStack(starts, lambda name: True, training, 0, STEPS)
    for step in range(max(STEPS)):
        # Those that still have batches are no neighbours in the stack.
        rows = [row for row, most in enumerate(STEPS) if step < most]
        given = {
            name: torch.stack([gradient(row, step, shape) for row in rows])
            for name, shape in (("a", (5,)), ("b", (3, 2)))
        }
        stack.step(rows, given, step)
    for row, start in enumerate(starts):
        found = stack.adapter(row)
        for name, expected in alone(training, row, start).items():
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_rows_that_are_no_neighbours_gather_their_own_gradients() -> None:
    starts = [{"a": torch.full((2,), float(row))} for row in range(4)]
    stack = TrainedStack(starts, lambda name: True, Training(), 0, [1] * 4)
    for rows in ([1, 2], [0, 3], [3]):
        opened = stack.open(rows)
        total = sum((row["a"] * (place + 1)).sum() for place, row in enumerate(opened.rows))
        (found,) = torch.autograd.grad(total, [opened.leaves["a"]])
        assert opened.leaves["a"][:, 0].tolist() == rows
        assert found[:, 0].tolist() == [place + 1 for place in range(len(rows))]


def test_what_no_gradient_trains_moves_where_it_lies() -> None:
    starts = [{"a": torch.zeros(2), "mean": torch.zeros(1)} for _ in range(3)]
    stack = TrainedStack(starts, lambda name: name != "mean", Training(), 0, [1] * 3)
    for place, row in enumerate(stack.open([0, 2]).rows):
        row["mean"].add_(place + 1)
    assert stack.tensors["mean"][:, 0].tolist() == [1.0, 0.0, 2.0]
