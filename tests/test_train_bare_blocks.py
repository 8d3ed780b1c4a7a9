"""With frozen devices of different cuts one function is trained, served and exported."""

from pathlib import Path

import pytest
import torch

from cutlayer import simulate
from cutlayer.model.bank import Segment
from cutlayer.model.export import load_adapter
from cutlayer.train.parts import load_parts
from helpers import small_job


@pytest.mark.parametrize("kind", ["averaged", "shared", "in-turn"])
@pytest.mark.parametrize("train", ["lora", "full"])
def test_frozen_devices_of_every_cut_train_what_is_exported(
    kind: str, train: str, tmp_path: Path
) -> None:
    settings = [
        "devices.per_round=2", "training.rounds=3", "training.evaluate_every=3",
        "method.device=frozen", f"method.server_adapter={kind}", f"method.train={train}",
        "method.allocation.solver=own_solvers:a_cut_each", "world={}",
    ]  # fmt: skip
    job = small_job(*settings)
    parts = load_parts(job)
    result = simulate(job, out=tmp_path / "run", parts=parts)
    had = {one.cut for row in result.rows for one in row.decisions.values()}
    assert len(had) > 1
    model, test = parts.model, parts.test.subset(range(20))
    exported = load_adapter(result.adapter_folder, model)
    inputs = parts.preprocess(test.inputs)
    route = [Segment(exported, len(test))]
    with torch.no_grad():
        whole = model.forward(inputs, route)
        for cut in had:
            # A frozen device has no adapter at all: what it runs is what was pretrained.
            sent = model.device_forward(inputs, cut, [Segment({}, len(test))])
            logits = model.server_forward(sent.hidden, sent.mask, cut, route)
            torch.testing.assert_close(logits, whole, rtol=1e-5, atol=1e-5)
