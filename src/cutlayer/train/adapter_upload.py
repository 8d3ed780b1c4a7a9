"""What is done to a trained adapter between the device and the server's average: clipping.

Each such step is a pair of functions: one on the device, before it sends, and one on the server,
which repeats it on what arrived because a device may not have done it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from cutlayer.model.lora import Adapter
from cutlayer.settings.training import Training


class UploadStep(Protocol):
    """One such pair. start: the adapter that the device, or the server, began the round with."""

    def on_device(self, start: Adapter, trained: Adapter) -> Adapter:
        """What the device sends instead of what it trained."""
        ...

    def on_server(self, start: Adapter, arrived: Adapter) -> tuple[Adapter, float]:
        """What the server averages instead of what arrived, and how many times larger than its
        bound that was: 1 where it stays as it is.
        """
        ...


@dataclass(frozen=True)
class ClipUpdate:
    """Bounds the L2 norm of the change that a device makes: w0 + (w - w0) min(1, bound / norm).

    On the server the norm also counts the adapter after the cut, where the server trains one for
    each device.
    moves: which tensors are trained by a gradient; the others are left as they are.
    """

    bound: float
    moves: Callable[[str], bool]

    def on_device(self, start: Adapter, trained: Adapter) -> Adapter:
        """See UploadStep."""
        return self._clipped(start, trained)[0]

    def on_server(self, start: Adapter, arrived: Adapter) -> tuple[Adapter, float]:
        """See UploadStep."""
        return self._clipped(start, arrived)

    def _clipped(self, start: Adapter, trained: Adapter) -> tuple[Adapter, float]:
        changes = {
            name: trained[name].detach() - start[name]
            for name in sorted(trained)
            if self.moves(name)
        }
        norm = torch.nn.utils.get_total_norm(changes.values())
        factor = torch.clamp(self.bound / norm, max=1.0)  # a norm of 0 gives infinity, and so 1
        if factor == 1.0:
            return trained, 1.0
        clipped = {name: start[name] + factor * change for name, change in changes.items()}
        # An update that its device has clipped arrives at the bound, but for rounding.
        times = norm.item() / self.bound
        return trained | clipped, times if times > 1 + 1e-4 else 1.0


def upload_steps(training: Training, moves: Callable[[str], bool]) -> Sequence[UploadStep]:
    """The pairs that a job asks for, in the order the device applies them."""
    if training.clip_update_norm is None:
        return ()
    return (ClipUpdate(training.clip_update_norm, moves),)
