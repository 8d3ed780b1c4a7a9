"""A benchmark's memory of frozen blocks gives what the model gives, and only where it may."""

import sys
from pathlib import Path

import pytest
import torch

from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.train.parts import first_adapter, load_parts
from helpers import small_job

FOLDER = Path(__file__).parent.parent / "benchmarks"
CUT = 3
Models = tuple[CutModel, CutModel, dict[str, torch.Tensor], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def models() -> Models:
    """The demo's model, the same with a memory, an adapter, and the inputs of six images."""
    sys.path.insert(0, str(FOLDER))
    from frozen_prefix import FrozenPrefix

    sys.path.remove(str(FOLDER))
    job = small_job()
    parts = load_parts(job)
    inputs = parts.preprocess(parts.test.inputs[:6])
    return parts.model, FrozenPrefix(parts.model, [CUT]), first_adapter(job, parts.model), inputs


def test_what_is_remembered_is_what_the_model_computes(
    models: Models,
) -> None:
    model, kept, adapter, inputs = models
    route = [Segment(adapter, 6)]
    some = {name: values[[4, 0, 4]] for name, values in inputs.items()}
    for given, along in ((inputs, route), (some, [Segment(adapter, 3)]), (inputs, route)):
        torch.testing.assert_close(kept.forward(given, along), model.forward(given, along))
        ours, theirs = (one.device_forward(given, CUT, along, "cls") for one in (kept, model))
        torch.testing.assert_close(ours.hidden, theirs.hidden)
        torch.testing.assert_close(ours.scores, theirs.scores)
        assert kept.device_forward(given, CUT, along).scores is None


@pytest.mark.parametrize("trains", [False, True])
def test_blocks_with_something_trained_are_computed_anew(
    models: Models,
    trains: bool,
) -> None:
    model, kept, adapter, inputs = models
    kept.forward(inputs, [Segment(adapter, 6)])
    name = next(key for key in adapter if key.endswith("lora_B.weight"))
    changed = adapter[name].clone().requires_grad_() if trains else torch.ones_like(adapter[name])
    route = [Segment({**adapter, name: changed}, 6)]
    torch.testing.assert_close(kept.forward(inputs, route), model.forward(inputs, route))
    assert kept.forward(inputs, route).requires_grad == trains
