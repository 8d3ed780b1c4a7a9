"""What goes into a pass of devices that compute together: batches as one, targets, and a route."""

from collections.abc import Mapping, Sequence

import torch

from cutlayer.data.dataset import Dataset, joined_inputs
from cutlayer.model.bank import Segment
from cutlayer.train.device import Device
from cutlayer.train.trained_stack import OpenRows
from cutlayer.wire.transfer import to_device, to_host


def batch_inputs(device: Device, batches: Sequence[Dataset]) -> dict[str, torch.Tensor]:
    """Several batches as one, made ready for the model on its torch device."""
    compute, ready = device.model.compute, device.preprocess(joined_inputs(batches))
    return {name: to_device(tensor, compute) for name, tensor in ready.items()}


def targets_of(
    device: Device, batches: Sequence[Dataset], inputs: Mapping[str, torch.Tensor]
) -> list[torch.Tensor]:
    """What the model should say of each of several batches, on the CPU.

    device: any of theirs. inputs: what `batch_inputs` made of them.
    """
    sizes = [len(batch) for batch in batches]
    named: Mapping[str, torch.Tensor] = {}
    if device.model.spec.modality == "text":  # the targets of language are in the inputs
        named = {name: to_host(tensor) for name, tensor in inputs.items()}
    parts = {name: torch.split(tensor, sizes) for name, tensor in named.items()}
    return [
        device.task.targets(batch, {name: own[place] for name, own in parts.items()})
        for place, batch in enumerate(batches)
    ]


def open_route(
    devices: Sequence[Device], step: int, sizes: Sequence[int]
) -> tuple[OpenRows | None, list[Segment]]:
    """The leaves of a pass, and each device's rows of a batch that mixes them, with its adapter.

    sizes: samples of each device's batch. None where nothing trains.
    """
    first, seeds = devices[0], [one.dropout_seed(step) for one in devices]
    if first.stack is None:
        given = zip(devices, sizes, seeds, strict=True)
        return None, [Segment(device.adapter, size, seed) for device, size, seed in given]
    rows = [device.row for device in devices]
    if first.job.privacy.unit != "sample":
        opened = first.stack.open(rows)
        return opened, [Segment(*one) for one in zip(opened.rows, sizes, seeds, strict=True)]
    opened = first.stack.open(rows, sizes)
    each = [(s, n) for s, size in zip(seeds, sizes, strict=True) for n in range(size)]
    return opened, [Segment(row, 1, *one) for row, one in zip(opened.rows, each, strict=True)]
