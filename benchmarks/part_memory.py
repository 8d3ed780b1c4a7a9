"""Memory of each part of a cut model in training: computed, and measured beside it.

python benchmarks/part_memory.py MODEL [--cut N] [--tail N] [--batch B] [--max-tokens T]

Measured are the weights that are loaded, and the most bytes of tensors that are alive at once in
one forward and backward pass of the part.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from cutlayer.drawing import tables
from cutlayer.model import cost
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.weights import load_model
from cutlayer.settings.model import Model
from environment import describe
from live_bytes import peak_bytes

COLUMNS = (
    tables.Column("part", "part", "text"),
    tables.Column("setting", "setting", "text"),
    tables.Column("weights", "weights, computed", "bytes"),
    tables.Column("weights_measured", "measured", "bytes"),
    tables.Column("peak", "activations at the peak, computed", "bytes"),
    tables.Column("peak_measured", "measured", "bytes"),
)
SETTINGS = (("as it is", 32, False), ("checkpointing", 32, True), ("8 bits", 8, False),
            ("4 bits, checkpointing", 4, True))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--cut", type=int, default=2)
    parser.add_argument("--tail", type=int)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    rows = []
    for setting, bits, checkpointing in SETTINGS:
        job = Model(
            path=options.model, cut=options.cut, tail=options.tail, max_tokens=options.max_tokens,
            frozen_bits=bits,
        )  # fmt: skip
        for part in ("device", "server"):
            model = load_model(job, 2, 0, part)  # type: ignore[arg-type]
            model.use("float32", checkpointing)
            rows.append({"part": part, "setting": setting, **measured(model, job, options.batch)})
    print(f"{describe()}\n\n{tables.markdown(rows, COLUMNS)}")


def measured(model: CutModel, job: Model, batch: int) -> dict[str, int]:
    """Computed and measured bytes of one part."""
    spec, cut = model.spec, job.cut
    held = {p.data_ptr(): p.nbytes for p in model.module.parameters()}
    low = [m for m in model.module.modules() if hasattr(m, "packed")]
    weights = sum(held.values()) + sum(m.packed.nbytes + m.scales.nbytes for m in low)
    if model.part == "server":
        found = cost.server_cost(spec, cut)
    else:
        found = cost.device_cost(spec, cut)
        found = found if spec.tail is None else found + cost.tail_cost(spec)
    computed = cost.weight_bytes(found, spec)
    found = found.checkpointed() if model._body.checkpoints is not None else found
    moving = replace(found, parameters=0, adapter_parameters=0, matrices=0)
    return {
        "weights": computed,
        "weights_measured": weights,
        "peak": cost.memory_bytes(moving, spec, batch),
        "peak_measured": peak_bytes(lambda: step(model, cut, batch)),
    }


def step(model: CutModel, cut: int, batch: int) -> None:
    """One forward and backward pass of a part, as in training."""
    spec = model.spec
    adapter = {name: one.requires_grad_() for name, one in model.new_adapter(0).items()}
    route, T = [Segment(adapter, batch)], spec.tokens_at(cut)
    mask = None
    if spec.modality == "text":
        mask = torch.ones(batch, T, dtype=torch.bool)
        inputs = {"input_ids": torch.ones(batch, T, dtype=torch.long), "attention_mask": mask}
    else:
        side = spec.image_size
        inputs = {"pixel_values": torch.ones(batch, spec.channels, side, side)}
    if model.part == "server":
        hidden = torch.randn(batch, T, spec.width_at(cut), requires_grad=True)
        if spec.tail is None:
            model.server_forward(hidden, mask, cut, route).logsumexp(-1).sum().backward()
            return
        out = model.middle_forward(hidden, mask, cut, route)
        out.backward(torch.ones_like(out))
        return
    sent = model.device_forward(inputs, cut, route).hidden
    if spec.tail is not None:
        features = torch.randn(sent.shape, requires_grad=True)
        model.tail_forward(features, mask, route).logsumexp(-1).sum().backward()
    if sent.requires_grad:
        sent.backward(torch.ones_like(sent))


if __name__ == "__main__":
    main()
