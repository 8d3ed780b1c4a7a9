"""Noise that hides samples, on labels, activations, gradients and averages, and its seed.

Unless a job asks for noise that can be repeated, it comes from a secret of this process, or of rank
0 of torchrun: the seed of a job is known to whoever has the run folder. PyTorch's generator is not
a cryptographic one, and floating-point noise is not exactly Gaussian in its last bits (Mironov
2012); neither is mended here.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cutlayer.data.dataset import Dataset
from cutlayer.job import Job
from cutlayer.model.lora import Adapter
from cutlayer.seeds import numpy_rng, torch_rng
from cutlayer.settings.privacy import Privacy

_secret = secrets.randbits(63)


def noise_seed(job: Job) -> int:
    """The seed of a job's noise: a secret of this process, or the job's own."""
    return job.seed if job.privacy.noise_from == "seed" else _secret


def noise_secret() -> int:
    """The secret of this process, for the other processes of one run alone."""
    return _secret


def take_noise_secret(secret: int) -> None:
    """Take another process's secret: noise of a device is then the same wherever it is trained, and
    does not fade when all that it sent is averaged."""
    global _secret
    _secret = secret


def with_label_noise(data: Dataset, job: Job, device: int) -> Dataset:
    """A device's samples, some of their labels replaced as `privacy.label_noise` says."""
    share = job.privacy.label_noise
    if not share:
        return data
    rng = numpy_rng(noise_seed(job), device, "label-noise")
    # The new label may be the same as the old one.
    replaced = rng.random(len(data)) < share
    drawn = rng.integers(len(data.classes), size=len(data))
    return replace(data, labels=np.where(replaced, drawn, data.labels))


def with_activation_noise(hidden: Tensor, job: Job, device: int, samples: Iterable[int]) -> Tensor:
    """Activations [b, T, D] of some samples of a device, with noise that belongs to each sample."""
    scale = job.privacy.activation_noise
    if not scale:
        return hidden
    noisy = []
    for values, sample in zip(hidden, samples, strict=True):
        rng = torch_rng(noise_seed(job), device, "activation-noise", int(sample))
        size = scale * values.square().mean().sqrt()
        noise = torch.randn(values.shape, generator=rng).to(values)
        noisy.append(values + size * noise)
    return torch.stack(noisy)


def noisy_sums(
    gradients: Mapping[str, Tensor],
    sizes: Sequence[int],
    privacy: Privacy,
    rngs: Sequence[torch.Generator],
) -> dict[str, Tensor]:
    """Noisy gradients [m, ...] of m batches from the gradients of their samples [n, ...]: DP-SGD.

    gradients: a row for each sample: its share in the gradient of the batch's mean loss, 1 / b of
    the sample's own gradient. sizes: b of each batch. Each sample's gradient is scaled down to
    privacy.clip_norm over all tensors, noise from the batch's generator in `rngs` is added to the
    batch's sum, and the sum is divided by b (Abadi et al. 2016, arXiv 1607.00133, algorithm 1).
    """
    counts = torch.tensor(sizes)
    names = sorted(gradients)
    some = gradients[names[0]]
    batches = torch.repeat_interleave(counts).to(some.device)
    share = counts.to(some)[batches]
    norms = torch.stack(
        [torch.linalg.vector_norm(gradients[name].flatten(1), dim=1) for name in names]
    )
    whole = torch.linalg.vector_norm(norms, dim=0) * share
    # The gradients are shares of a batch's mean, and so is this norm.
    factor = torch.clamp(privacy.clip_norm / (whole + 1e-6), max=1.0)
    found = {}
    for name in names:
        rows = gradients[name]
        clipped = rows * factor.view(-1, *[1] * (rows.ndim - 1))
        mean = torch.zeros(len(sizes), *rows.shape[1:], dtype=rows.dtype, device=rows.device)
        mean.index_add_(0, batches, clipped)
        if privacy.noise_multiplier:
            noise = [torch.randn(rows.shape[1:], generator=rng) for rng in rngs]
            scale = privacy.noise_multiplier * privacy.clip_norm / counts.to(some)
            mean += torch.stack(noise).to(mean) * scale.view(-1, *[1] * (rows.ndim - 1))
        found[name] = mean
    return found


def noisy_average(
    start: Adapter,
    changed: Mapping[int, Adapter],
    job: Job,
    round: int,
    moves: Callable[[str], bool],
) -> tuple[Adapter, dict[int, float]]:
    """start + (the sum of the devices' bounded changes + noise) / devices of a round: DP-FedAvg.

    McMahan et al. 2018, arXiv 1710.06963, algorithm 1 with a fixed denominator, so that a device
    that takes part changes the sum by at most clip_norm. changed: the adapters of the devices; a
    tensor that no device trained stays the same. Also returns, for each change that was scaled
    down, how many times larger than clip_norm it was.
    """
    privacy, devices = job.privacy, job.devices.cohort
    names = sorted({name for one in changed.values() for name in one if moves(name)})
    sums = {name: torch.zeros_like(start[name], dtype=torch.float64) for name in names}
    excess = {}
    for device in sorted(changed):
        change = {
            name: changed[device][name].detach().to(sums[name]) - start[name]
            for name in names
            if name in changed[device]
        }
        norm = torch.nn.utils.get_total_norm(list(change.values())).item()
        times = max(1.0, norm / privacy.clip_norm)
        if times > 1:
            excess[device] = times
        for name, values in change.items():
            sums[name] += values / times
    rng = torch_rng(noise_seed(job), round, "average-noise")
    scale = privacy.noise_multiplier * privacy.clip_norm
    for name, total in sums.items():
        noise = torch.randn(total.shape, generator=rng, dtype=torch.float64).to(total.device)
        sums[name] = total + scale * noise
    moved = {name: (start[name] + sums[name] / devices).to(start[name]) for name in names}
    return moved, excess
