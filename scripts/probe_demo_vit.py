"""Measure what the demo's pretrained weights are worth: LoRA from them against from random ones.

    python scripts/probe_demo_vit.py src/cutlayer/assets --seeds 0 1

fine-tunes rank-8 LoRA on q_proj and v_proj plus a fresh head (through PEFT) on the demo's training
images and prints the test accuracy after each epoch, for both kinds of weights, with the same
settings and seeds. It then prints, for each block, how far CLS's attention over the patches (mean
over heads, renormalised without CLS itself) is from uniform: its entropy over that of the uniform
distribution, and the share that the 24 most attended of 49 patches hold (0.49 if uniform).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, ViTForImageClassification, ViTModel


def load_images(assets: Path, part: str) -> tuple[Tensor, Tensor]:
    """The demo's `part` ("train" or "test"): prepared pixels [n,1,28,28] and labels [n]."""
    with np.load(assets / "fashion-mnist.npz", allow_pickle=False) as demo:
        images, labels = demo[f"{part}_images"], demo[f"{part}_labels"]
    settings = (assets / "demo-vit" / "preprocessor_config.json").read_text(encoding="utf-8")
    prepare = json.loads(settings)
    pixels = torch.from_numpy(images).unsqueeze(1).float() * prepare["rescale_factor"]
    pixels = (pixels - prepare["image_mean"][0]) / prepare["image_std"][0]
    return pixels, torch.from_numpy(labels).long()


def build(folder: Path, weights: str, classes: int) -> nn.Module:
    """A float32 classifier with LoRA, from the pretrained weights or the library's random ones."""
    config = AutoConfig.from_pretrained(folder, num_labels=classes, dtype=torch.float32)
    # Plain attention is the faster one to train at 50 tokens on a CPU.
    config._attn_implementation = "eager"
    model = ViTForImageClassification(config)
    if weights == "pretrained":
        model.vit = ViTModel.from_pretrained(
            folder, add_pooling_layer=False, dtype=torch.float32, attn_implementation="eager"
        )
    nn.init.normal_(model.classifier.weight, std=0.02)
    lora = LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"]
    )
    return get_peft_model(model, lora)


@torch.no_grad()
def accuracy(model: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """Share of `pixels` that the model puts in the right class."""
    model.eval()
    guesses = [model(pixel_values=part).logits.argmax(1) for part in pixels.split(250)]
    return (torch.cat(guesses) == labels).double().mean().item()


def fine_tune(args: argparse.Namespace, weights: str, seed: int) -> list[float]:
    """Test accuracy after each epoch of fine-tuning on `args.images` images."""
    torch.manual_seed(seed)
    pixels, labels = (part[: args.images] for part in load_images(args.assets, "train"))
    test = load_images(args.assets, "test")
    model = build(args.model or args.assets / "demo-vit", weights, 10)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.rate, weight_decay=0.0)
    seen = []
    for _ in range(args.epochs):
        model.train()
        for rows in torch.randperm(len(pixels)).split(args.batch):
            loss = F.cross_entropy(model(pixel_values=pixels[rows]).logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seen.append(accuracy(model, *test))
    return seen


@torch.no_grad()
def attention_shape(folder: Path, pixels: Tensor) -> list[tuple[float, float]]:
    """For each block: normalised entropy of CLS's attention over patches, and top-24 share."""
    model = ViTModel.from_pretrained(
        folder, add_pooling_layer=False, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    shape = []
    for weights in model(pixel_values=pixels, output_attentions=True).attentions:
        share = weights.mean(dim=1)[:, 0, 1:]
        share = share / share.sum(dim=1, keepdim=True)
        entropy = -(share * share.clamp(min=1e-12).log()).sum(dim=1) / np.log(share.shape[1])
        shape.append((entropy.mean().item(), share.topk(24, dim=1).values.sum(dim=1).mean().item()))
    return shape


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("assets", type=Path, help="folder of fashion-mnist.npz and demo-vit/")
    parser.add_argument("--model", type=Path, help="another model folder than assets/demo-vit")
    parser.add_argument("--images", type=int, default=4000, help="labelled images to train on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--weights", nargs="+", default=["pretrained", "random"])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    for weights in args.weights:
        for seed in args.seeds:
            after = " ".join(f"{100 * value:.1f}" for value in fine_tune(args, weights, seed))
            print(f"{weights}, seed {seed}: accuracy after each epoch, %: {after}", flush=True)
    test, _ = load_images(args.assets, "test")
    shape = attention_shape(args.model or args.assets / "demo-vit", test[:500])
    for index, (entropy, top) in enumerate(shape, start=1):
        print(f"block {index}: entropy {entropy:.3f} of uniform, top 24 of 49 hold {top:.3f}")


if __name__ == "__main__":
    main()
