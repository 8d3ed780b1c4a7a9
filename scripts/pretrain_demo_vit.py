"""Pretrain the demo's small vision transformer on Fashion-MNIST without looking at a label.

    python scripts/make_demo_data.py /usr/share/datasets/fashion-mnist src/cutlayer/assets
    python scripts/pretrain_demo_vit.py /usr/share/datasets/fashion-mnist src/cutlayer/assets

It learns from the official training split without the 4,000 images that the demo trains on and
without any pixel-identical copy of a demo image. Two objectives share one encoder pass over two
randomly cropped, flipped and brightened views of each image, each view with a random part of its
patches left out:

- masked autoencoding: a small decoder, thrown away afterwards, draws the patches left out
  (He et al., 2022);
- agreement of the class token: the CLS outputs of the two views of an image find each other among
  those of the batch (SimCLR's loss; Chen et al., 2020). A classifier that reads only CLS, and a
  token selector that ranks patches by CLS's attention, both need this.

The share of patches left out changes from step to step, so that the model also knows short rows
of tokens, as a token selector sends them.

The defaults made what is shipped, in 1081 seconds (2,000 steps) on one thread of a busy two-core
AMD EPYC; one thread, because two wait for each other where the cores are shared. Run again on the
same machine it goes through the same losses. `probe_demo_vit.py` measures the result.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import ViTConfig, ViTModel

from make_demo_data import read_split

MEAN, STD = 0.2860, 0.3530  # of Fashion-MNIST's training pixels, in [0, 1]
PATCH, SIDE = 4, 28


def demo_config() -> ViTConfig:
    """The demo's architecture: 49 patches + CLS, width 128, 6 blocks, 4 heads, 1.2 M parameters."""
    return ViTConfig(
        image_size=SIDE,
        patch_size=PATCH,
        num_channels=1,
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-6,
    )


def pretraining_images(source: Path, assets: Path) -> Tensor:
    """The training split [n,1,28,28] uint8 without the demo's images and their exact copies."""
    images, _ = read_split(source, "train")
    with np.load(assets / "fashion-mnist.npz", allow_pickle=False) as demo:
        used = {image.tobytes() for part in ("train", "test") for image in demo[f"{part}_images"]}
    free = np.array([image.tobytes() not in used for image in images])
    return torch.from_numpy(images[free]).unsqueeze(1)


def random_view(images: Tensor, rng: torch.Generator) -> Tensor:
    """Crop, stretch, flip and brighten each of `images` [B,1,28,28] uint8 at random; normalised."""
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=rng) * (high - low) + low

    scale, stretch = uniform(0.5, 1.0).sqrt(), uniform(-0.2, 0.2).exp()
    across, down = scale * stretch, scale / stretch
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = across * flip, down
    affine[:, 0, 2] = uniform(-1, 1) * (1 - across).clamp(min=0.05)
    affine[:, 1, 2] = uniform(-1, 1) * (1 - down).clamp(min=0.05)
    grid = F.affine_grid(affine, [count, 1, SIDE, SIDE], align_corners=False)
    pixels = F.grid_sample(images.float() / 255, grid, align_corners=False)
    gamma = uniform(-0.5, 0.5).exp().view(-1, 1, 1, 1)
    gain = uniform(0.6, 1.3).view(-1, 1, 1, 1)
    return ((pixels.clamp(min=1e-4) ** gamma) * gain - MEAN) / STD


def patches_of(pixels: Tensor) -> Tensor:
    """Cut `pixels` [B,1,28,28] into the patches [B,49,16] that the decoder draws."""
    return F.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2)


def grid_waves(width: int, rows: int) -> Tensor:
    """Sines and cosines of each patch's row and column, zeros for CLS: [1,1+rows*rows,width]."""
    rates = 10 ** -torch.linspace(0, 2, width // 4)
    angles = torch.arange(rows).unsqueeze(1) * rates
    one = torch.cat([angles.sin(), angles.cos()], dim=1)
    both = torch.cat([one.repeat_interleave(rows, 0), one.repeat(rows, 1)], dim=1)
    return torch.cat([torch.zeros(1, width), both]).unsqueeze(0)


class Pretrainer(nn.Module):
    """The encoder that is kept, and the decoder and projector that are thrown away."""

    def __init__(self, decoder_width: int = 64, projection: int = 128):
        super().__init__()
        config = demo_config()
        self.vit = ViTModel(config, add_pooling_layer=False)
        width, rows = config.hidden_size, SIDE // PATCH
        self.shrink = nn.Linear(width, decoder_width)
        self.gap = nn.Parameter(torch.randn(decoder_width) * 0.02)
        self.places = nn.Parameter(grid_waves(decoder_width, rows))
        self.decoder = nn.TransformerEncoderLayer(
            decoder_width, 4, 4 * decoder_width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.draw = nn.Sequential(nn.LayerNorm(decoder_width), nn.Linear(decoder_width, PATCH**2))
        self.project = nn.Sequential(
            nn.Linear(width, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, projection)
        )
        # The library's starting values (deviation 0.02) suit a width of 768 and are slow at 128.
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        patches = self.vit.embeddings.patch_embeddings.projection
        nn.init.xavier_uniform_(patches.weight.view(width, -1))
        with torch.no_grad():
            self.vit.embeddings.position_embeddings.copy_(grid_waves(width, rows))

    def encode(self, pixels: Tensor, kept: Tensor) -> Tensor:
        """Run the encoder on CLS and the `kept` [B,K] patches only: [B,1+K,D]."""
        embeddings = self.vit.embeddings
        hidden = embeddings.patch_embeddings(pixels) + embeddings.position_embeddings[:, 1:]
        hidden = hidden.gather(1, kept.unsqueeze(2).expand(-1, -1, hidden.shape[2]))
        cls = embeddings.cls_token + embeddings.position_embeddings[:, :1]
        hidden = torch.cat([cls.expand(len(pixels), -1, -1), hidden], dim=1)
        for layer in self.vit.layers:
            hidden = layer(hidden)
        return self.vit.layernorm(hidden)

    def reconstruct(self, hidden: Tensor, order: Tensor) -> Tensor:
        """Draw every patch [B,49,16] from CLS and the kept patches, the first ones in `order`."""
        small = self.shrink(hidden)
        gaps = self.gap.expand(len(small), order.shape[1] - small.shape[1] + 1, -1)
        rows = torch.cat([small[:, 1:], gaps], dim=1)
        back = order.argsort(dim=1).unsqueeze(2).expand(-1, -1, rows.shape[2])
        rows = torch.cat([small[:, :1], rows.gather(1, back)], dim=1) + self.places
        return self.draw(self.decoder(rows))[:, 1:]

    def losses(
        self, pixels: Tensor, order: Tensor, kept: int, heat: float
    ) -> tuple[Tensor, Tensor]:
        """Reconstruction and agreement for two views stacked in `pixels` [2B,1,28,28]."""
        # On a CPU, bfloat16 matrices and plain attention train twice as fast as the defaults.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            hidden = self.encode(pixels, order[:, :kept])
            drawn = self.reconstruct(hidden, order).float()
            code = self.project(hidden[:, 0]).float()
        target = patches_of(pixels)
        dropped = torch.ones_like(order, dtype=target.dtype).scatter(1, order[:, :kept], 0.0)
        rebuild = ((drawn - target).square().mean(dim=2) * dropped).sum() / dropped.sum()

        code = F.normalize(code, dim=1)
        count = len(code)
        likeness = (code @ code.T / heat).masked_fill(torch.eye(count, dtype=torch.bool), -1e9)
        partner = torch.arange(count).roll(count // 2)
        return rebuild, F.cross_entropy(likeness, partner)


def batches(images: Tensor, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Full batches of `size` images, reshuffled every pass, without end."""
    while True:
        for rows in torch.randperm(len(images), generator=rng).split(size):
            if len(rows) == size:
                yield images[rows]


def pretrain(images: Tensor, args: argparse.Namespace) -> ViTModel:
    """Train for `args.steps` steps with AdamW, linear warm-up and cosine decay."""
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    model = Pretrainer()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.95))
    warm = max(1, args.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        ),
    )
    stream, start = batches(images, args.batch, rng), time.monotonic()
    for step in range(1, args.steps + 1):
        batch = next(stream)
        pixels = torch.cat([random_view(batch, rng), random_view(batch, rng)])
        order = torch.rand(len(pixels), (SIDE // PATCH) ** 2, generator=rng).argsort(dim=1)
        kept = int(torch.randint(args.kept[0], args.kept[1] + 1, (), generator=rng))
        rebuild, agree = model.losses(pixels, order, kept, args.heat)
        optimizer.zero_grad()
        (rebuild + args.agree * agree).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == args.steps:
            spent = time.monotonic() - start
            print(f"{step} {spent:.0f}s rebuild {rebuild:.3f} agree {agree:.3f}", flush=True)
    return model.vit.eval()


def save(vit: ViTModel, folder: Path) -> None:
    """Write the encoder in Hugging Face's layout, with how its inputs are prepared.

    The tensors are float16 on disk; config.json says float32, so they are widened when loaded.
    """
    small = {name: tensor.half() for name, tensor in vit.state_dict().items()}
    vit.save_pretrained(folder, state_dict=small)
    (folder / "model.safetensors").chmod(0o644)
    preprocessor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN],
        "image_std": [STD],
    }
    text = json.dumps(preprocessor, indent=2) + "\n"
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of the four idx .gz files")
    parser.add_argument("assets", type=Path, help="folder of fashion-mnist.npz; gets demo-vit/")
    parser.add_argument("--out", type=Path, help="write the model here (default: assets/demo-vit)")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=128, help="images a step (two views of each)")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--agree", type=float, default=0.3, help="weight of the CLS agreement")
    parser.add_argument("--heat", type=float, default=0.2, help="temperature of the agreement")
    parser.add_argument("--kept", type=int, nargs=2, default=(8, 24), help="patches kept: range")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    images = pretraining_images(args.source, args.assets)
    print(f"{len(images):,} images without labels", flush=True)
    save(pretrain(images, args), args.out or args.assets / "demo-vit")


if __name__ == "__main__":
    main()
