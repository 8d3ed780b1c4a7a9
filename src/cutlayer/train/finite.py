"""Losses, gradients and adapters that are not finite: found early, by the device that has them."""

from collections.abc import Sequence

import torch

from cutlayer.errors import RunError
from cutlayer.train.device import GENERATED_DATA


def are_finite(groups: Sequence[Sequence[torch.Tensor]]) -> list[bool]:
    """Whether each group of tensors holds neither NaN nor infinity: one look for all groups."""
    largest = [torch.nn.utils.get_total_norm(group, torch.inf) for group in groups if group]
    found = iter(torch.stack(largest).isfinite().tolist() if largest else [])
    return [next(found) if group else True for group in groups]


def not_finite(
    thing: str, value: object, device: int, round: int, step: int | None = None
) -> RunError:
    """The error for a device's loss, gradient or adapter (`thing`) and what it is (`value`)."""
    who = "the generated data" if device == GENERATED_DATA else f"device {device}"
    when = f"round {round}" if step is None else f"round {round}, step {step}"
    return RunError(
        f"training: the {thing} of {who} is {value} in {when}: lower training.lr, or raise the "
        "bits of method.uplink and method.downlink"
    )
