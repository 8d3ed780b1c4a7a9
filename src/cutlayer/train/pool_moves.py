"""What moves the adapters of devices that compute together: the gradients of one pass."""

from collections.abc import Mapping, Sequence

import torch

from cutlayer.seeds import torch_rng
from cutlayer.train.device import Device
from cutlayer.train.finite import finite_rows, not_finite
from cutlayer.train.noise import noise_seed, noisy_sums
from cutlayer.train.optimizer import picked_by_name


def noisy(
    devices: Sequence[Device], gradients: Mapping[str, torch.Tensor], step: int
) -> dict[str, torch.Tensor]:
    """Each device's gradient [M, ...] from those of its samples, bounded and with noise."""
    sizes = [len(device.to_compute(step)) for device in devices]
    rngs = [
        torch_rng(noise_seed(one.job), one.id, one.round, "device-noise", step) for one in devices
    ]
    return noisy_sums(gradients, sizes, devices[0].job.privacy, rngs)


def move(
    devices: Sequence[Device],
    moving: Sequence[Device],
    gradients: Mapping[str, torch.Tensor],
    step: int,
) -> None:
    """Move the adapters of some devices, which share a stack, by a step of their optimisers.

    gradients: of all `devices`, [M, ...] each. Raises RunError for one that is not finite.
    """
    stack = devices[0].stack
    assert stack is not None
    places = [devices.index(device) for device in moving]
    own = picked_by_name(gradients, places)
    fine = finite_rows(list(own.values()), len(moving))
    for device, is_fine in zip(moving, fine, strict=True):
        if not is_fine:
            raise not_finite("gradient", "not finite", device.id, device.round, step)
    stack.step([device.row for device in moving], own, step)
