"""Plain transformers and PEFT: one device after another in one process, and a mean by hand."""

from pathlib import Path

import torch

from work import Told, Work, take, train_device, trained


def main(path: Path, out: Path) -> None:
    """Do the work; nothing travels."""
    work, told = Work.read(path), Told(out, ("peft", "transformers", "torch"))
    model = work.make_model()
    shared = {name: tensor.detach().clone() for name, tensor in trained(model).items()}
    for _ in range(work.rounds):
        total = {name: torch.zeros_like(tensor) for name, tensor in shared.items()}
        losses = []
        for number in range(work.devices):
            take(model, shared)
            losses.append(train_device(work, model, number))
            for name, tensor in trained(model).items():
                total[name] += tensor.detach() / work.devices
        shared = total
        told.round_done(sum(losses) / len(losses))
    told.write(None, None)
