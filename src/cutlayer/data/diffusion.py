"""Our own small class-conditional diffusion model of images, built from `diffusers` parts.

A U-Net predicts the velocity v = sqrt(a) noise - sqrt(1 - a) image (Salimans and Ho,
arXiv:2202.00512) on a cosine schedule. Training leaves labels out at times, so that
classifier-free guidance (Ho and Salimans, arXiv:2207.12598) can strengthen them when
DPM-Solver++ (Lu et al., arXiv:2211.01095, second order) draws images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutlayer.errors import DataError
from cutlayer.files import write_atomically

NOISE_LEVELS = 1000
"""Number of noise levels in training; sampling uses some of them."""

_SCHEDULE = {
    "num_train_timesteps": NOISE_LEVELS,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
}
_DESCRIPTION = "generator.json"
_WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Diffusion:
    """A diffusion model: what it draws, how it is built, and its default sampling.

    image_size: (height, width). fold, widths, blocks: see `settings.generator.GeneratorTraining`.
    steps, guidance: defaults for sampling.
    """

    classes: tuple[str, ...]
    image_size: tuple[int, int]
    channels: int
    fold: int = 1
    widths: tuple[int, ...] = (64, 96)
    blocks: int = 1
    steps: int = 10
    guidance: float = 1.5

    @property
    def folded(self) -> tuple[int, int, int]:
        """Shape [channels, height, width] that the U-Net sees."""
        height, width = self.image_size
        return self.channels * self.fold**2, height // self.fold, width // self.fold


def diffusers() -> ModuleType:
    """The package, or a DataError that says how to install it."""
    try:
        import diffusers as package
    except ImportError:
        raise DataError(
            "generated images need the package diffusers: pip install cutlayer[generate]"
        ) from None
    module: ModuleType = package
    return module


def own_fold(image_size: tuple[int, int]) -> int:
    """The largest power of two that leaves 14 or more folded pixels a side."""
    fold = 1
    while min(image_size) // (2 * fold) >= 14 and not any(side % (2 * fold) for side in image_size):
        fold *= 2
    return fold


def build(model: Diffusion) -> nn.Module:
    """A U-Net for the model's folded images, with random weights from torch's global generator.

    Raises DataError where the images cannot be folded and halved as the model says.
    """
    channels, height, width = model.folded
    halved = model.fold * 2 ** (len(model.widths) - 1)
    if any(side % halved for side in model.image_size):
        high, wide = model.image_size
        raise DataError(
            f"images of {high} x {wide} cannot be folded by {model.fold} and halved "
            f"{len(model.widths) - 1} times: take a smaller fold or fewer widths, or images whose "
            f"sides are multiples of {halved}"
        )
    depth = len(model.widths)
    unet: nn.Module = diffusers().UNet2DModel(
        sample_size=(height, width),
        in_channels=channels,
        out_channels=channels,
        layers_per_block=model.blocks,
        block_out_channels=model.widths,
        down_block_types=("DownBlock2D",) * depth,
        up_block_types=("UpBlock2D",) * depth,
        norm_num_groups=8,
        attention_head_dim=32 if model.widths[-1] % 32 == 0 else 8,
        num_class_embeds=len(model.classes) + 1,  # the last one: no label
    )
    return unet


def schedule() -> Any:
    """The noise that training adds, as a `diffusers` scheduler."""
    return diffusers().DDPMScheduler(**_SCHEDULE)


def solver(steps: int) -> Any:
    """The way back from noise to an image in `steps` steps, as a `diffusers` scheduler."""
    plan = diffusers().DPMSolverMultistepScheduler(
        **_SCHEDULE, timestep_spacing="trailing", lower_order_final=True, final_sigmas_type="zero"
    )
    plan.set_timesteps(steps)
    return plan


def loss(
    unet: nn.Module,
    model: Diffusion,
    images: Tensor,
    labels: Tensor,
    drop_label: float,
    rng: torch.Generator,
) -> Tensor:
    """Mean squared error of the predicted velocity.

    images: uint8 [B,C,H,W]. labels: int64 [B]; each is left out with probability `drop_label`. All
    randomness (noise, its levels, labels left out) comes from `rng` on the CPU, so it is the same
    on every machine.
    """
    device = next(unet.parameters()).device
    count = len(images)
    clean = fold_pixels(images, model.fold).to(device)
    noise = torch.randn(clean.shape, generator=rng).to(device)
    # Levels spread evenly over the batch: less variance than independent draws.
    levels = (torch.arange(count) + torch.rand((), generator=rng)) * NOISE_LEVELS / count
    order = torch.randperm(count, generator=rng)
    dropped = torch.rand(count, generator=rng) < drop_label
    levels = levels.long().clamp(max=NOISE_LEVELS - 1)[order].to(device)
    shown = torch.where(dropped, len(model.classes), labels).to(device)
    plan = schedule()
    noisy = plan.add_noise(clean, noise, levels)
    predicted = unet(noisy, levels, class_labels=shown).sample
    return F.mse_loss(predicted.float(), plan.get_velocity(clean, noise, levels))


@torch.no_grad()
def draw(
    unet: nn.Module, model: Diffusion, labels: Tensor, noise: Tensor, steps: int, guidance: float
) -> Tensor:
    """Images uint8 [B,C,H,W] of `labels` [B] from standard normal `noise` [B, *folded]."""
    device = next(unet.parameters()).device
    plan = solver(steps)
    pixels, shown = noise.to(device), labels.to(device)
    unlabelled = torch.full_like(shown, len(model.classes))
    for level in plan.timesteps:
        if guidance == 1:
            velocity = unet(pixels, level, class_labels=shown).sample
        else:
            both = torch.cat([shown, unlabelled])
            given, free = unet(torch.cat([pixels, pixels]), level, class_labels=both).sample.chunk(
                2
            )
            velocity = free + guidance * (given - free)
        pixels = plan.step(velocity, level, pixels).prev_sample
    return unfold_pixels(pixels, model.fold).cpu()


def fold_pixels(images: Tensor, fold: int) -> Tensor:
    """uint8 [B,C,H,W] -> float32 [B,C*fold*fold,H/fold,W/fold] in -1..1."""
    return F.pixel_unshuffle(images.float() / 127.5 - 1, fold)


def unfold_pixels(pixels: Tensor, fold: int) -> Tensor:
    """The inverse of `fold_pixels`, rounded and clipped."""
    images = F.pixel_shuffle(pixels.float(), fold)
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def save(folder: Path, model: Diffusion, weights: dict[str, Tensor], small: bool = False) -> None:
    """Write description and weights; `small` stores float16. Raises OSError.

    The folders unet/ and scheduler/ are in the layout of `diffusers`, whose classes read them too.
    """
    from safetensors.torch import save as packed

    (folder / "unet").mkdir(parents=True, exist_ok=True)
    dtype = torch.float16 if small else torch.float32
    kept = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in weights.items()}
    with torch.device("meta"):
        shell: Any = build(model)
    shell.save_config(folder / "unet")
    solver(model.steps).save_config(folder / "scheduler")
    text = json.dumps(asdict(model), indent=2) + "\n"
    write_atomically(folder / _WEIGHTS, packed(kept, metadata={"format": "pt"}))
    write_atomically(folder / _DESCRIPTION, text.encode())


def load(folder: Path, device: torch.device | str = "cpu") -> tuple[Diffusion, nn.Module]:
    """Read what `save` wrote, in float32. Raises DataError for anything else."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        values = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        model = Diffusion(**{**values, **lists})
        with torch.random.fork_rng():
            unet = build(model)
        unet.load_state_dict(load_file(folder / _WEIGHTS))
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} holds no trained generator ({error}): name a folder that "
            "cutlayer generator train wrote"
        ) from None
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise DataError(
            f"{folder} holds a generator that cannot be read "
            f"({str(error).splitlines()[0]}): train it again or copy it again"
        ) from None
    return model, unet.to(device).eval()


def shape_of(images: Tensor) -> tuple[int, tuple[int, int]]:
    """Channels and (height, width) of images [n,C,H,W]."""
    channels, height, width = images.shape[1:]
    return channels, (height, width)


def moving_average(kept: Sequence[Tensor], new: Sequence[Tensor], decay: float, step: int) -> None:
    """Move `kept` towards `new` in place, by a decay of min(decay, step / (step + 9)).

    step: counts from 1. The decay is smaller in early steps, so that the first weights are
    forgotten.
    """
    torch._foreach_lerp_(list(kept), list(new), 1 - min(decay, step / (step + 9)))
