"""Changes a trained adapter between the device and the server's average: clipping.

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
    """A pair of functions. start: the adapter with which device, or server, began the round."""

    def on_device(self, start: Adapter, trained: Adapter) -> Adapter:
        """What the device sends instead of what it trained."""
        ...

    def on_server(self, start: Adapter, arrived: Adapter) -> tuple[Adapter, float]:
        """What the server averages instead of what arrived, and how many times larger than its
        bound the change was; 1 if it is within its bound.
        """
        ...


@dataclass(frozen=True)
class ClipUpdate:
    """Bounds the L2 norm of the change that a device makes: w0 + (w - w0) min(1, bound / norm).

    If the server trains an adapter after the cut for each device, the norm on the server counts
    that too. moves: whether a tensor is trained by a gradient; others stay unchanged.
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
        # The norm of an update that its device has clipped is at the bound, up to rounding.
        times = norm.item() / self.bound
        return trained | clipped, times if times > 1 + 1e-4 else 1.0


def upload_steps(training: Training, moves: Callable[[str], bool]) -> Sequence[UploadStep]:
    """The pairs that a job asks for, in the order the device applies them."""
    if training.clip_update_norm is None:
        return ()
    return (ClipUpdate(training.clip_update_norm, moves),)
