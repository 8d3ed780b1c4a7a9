"""Losses, gradients and adapters that are not finite: found early, by the device that has them."""

from collections.abc import Sequence

import torch

from cutlayer.errors import RunError
from cutlayer.train.device import GENERATED_DATA


def finite_rows(tensors: Sequence[torch.Tensor], count: int) -> list[bool]:
    """Whether each of `count` rows of tensors [count, ...] holds neither NaN nor infinity."""
    if not tensors:
        return [True] * count
    largest = [tensor.detach().flatten(1).abs().amax(1) for tensor in tensors]
    found: list[bool] = torch.stack(largest).isfinite().all(0).tolist()
    return found


def not_finite(
    thing: str, value: object, device: int, round: int, step: int | None = None
) -> RunError:
    """The error for a device's loss, gradient or adapter (`thing`) that is `value`."""
    who = "the generated data" if device == GENERATED_DATA else f"device {device}"
    when = f"round {round}" if step is None else f"round {round}, step {step}"
    return RunError(
        f"training: the {thing} of {who} is {value} in {when}: lower training.lr, or raise the "
        "bits of method.uplink and method.downlink"
    )


def largest_of(gradients: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """The largest magnitude of all, which is not finite where one of them is not."""
    given = [gradient for gradient in gradients if gradient is not None]
    return torch.nn.utils.get_total_norm(given, torch.inf)
