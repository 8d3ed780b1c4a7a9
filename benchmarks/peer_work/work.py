"""The work that every framework does: its settings, its data, and the training of one device.

Needs numpy, torch, transformers and PEFT alone.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class Work:
    """What is trained, by whom, on how much.

    model: folder of a checkpoint. targets: ends of the names of layers with LoRA. devices: all of
    them take part in each round, with `samples` images each, in batches of `batch`. cut: blocks on
    a device, where the framework cuts the model. blocks: those with LoRA; None: all.
    """

    model: str
    classes: int
    rank: int
    alpha: float
    targets: tuple[str, ...]
    devices: int
    samples: int
    batch: int
    rounds: int
    lr: float
    cut: int
    blocks: tuple[int, ...] | None
    data: str

    @classmethod
    def read(cls, path: Path) -> "Work":
        """The work of a file."""
        values = json.loads(path.read_text())
        lists = {name: tuple(one) for name, one in values.items() if isinstance(one, list)}
        return cls(**{**values, **lists})

    def device(self, number: int) -> tuple[Tensor, Tensor]:
        """A device's pixels [samples, channels, height, width] and labels [samples]."""
        held = _held(self.data)
        part = slice(number * self.samples, (number + 1) * self.samples)
        return torch.from_numpy(held[0][part]), torch.from_numpy(held[1][part])

    def make_model(self) -> nn.Module:
        """The checkpoint with PEFT's LoRA layers and a new head, both the same everywhere."""
        import peft
        from transformers import AutoModelForImageClassification

        torch.set_num_threads(1)
        torch.manual_seed(0)
        model = AutoModelForImageClassification.from_pretrained(
            self.model, num_labels=self.classes, ignore_mismatched_sizes=True
        )
        settings = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=list(self.targets),
            layers_to_transform=self.blocks and list(self.blocks),
            layers_pattern=self.blocks and ["layers", "layer"],
            modules_to_save=["classifier"],
        )
        return peft.get_peft_model(model, settings).train()

    def optimizer(self, tensors: list[Tensor]) -> torch.optim.Optimizer:
        """Of one device, new in each round."""
        return torch.optim.AdamW(tensors, lr=self.lr, weight_decay=0.0, fused=True)


_DATA: dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]] = {}


def _held(path: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All devices' images, read once a process."""
    if path not in _DATA:
        with np.load(path) as held:
            _DATA[path] = held["pixels"], held["labels"]
    return _DATA[path]


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that are trained and travel, by name."""
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def take(model: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Put the global tensors into the model."""
    with torch.no_grad():
        for name, tensor in trained(model).items():
            tensor.copy_(given[name])


def train_device(work: Work, model: nn.Module, number: int) -> float:
    """One epoch of one device, in place; returns its mean loss."""
    pixels, labels = work.device(number)
    optimizer = work.optimizer(list(trained(model).values()))
    losses = []
    for start in range(0, work.samples, work.batch):
        part = slice(start, start + work.batch)
        optimizer.zero_grad()
        logits = model(pixel_values=pixels[part]).logits
        loss = nn.functional.cross_entropy(logits, labels[part])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors' values."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


class Told:
    """What a framework tells of its run, round by round, and writes when it is done."""

    def __init__(self, out: Path, packages: tuple[str, ...]) -> None:
        self._out = out
        self._values = {
            "ends": [],
            "losses": [],
            "versions": {name: version(name) for name in packages},
        }

    def round_done(self, loss: float) -> None:
        """A round ended now, with this mean loss."""
        self._values["ends"].append(time.time())
        self._values["losses"].append(float(loss))

    def write(self, up: float | None, down: float | None) -> None:
        """Bytes of all devices in one round, up and down; None where none travel."""
        self._out.write_text(json.dumps({**self._values, "up": up, "down": down}))
