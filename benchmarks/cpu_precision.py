"""A training step after the cut on a CPU: float32, bfloat16 with torch's own attention, and ours.

    python benchmarks/cpu_precision.py MODEL [--sides 98 224] [--images 16] [--cut 4] [--write]

MODEL is a ViT of Hugging Face's, such as DINOv2-small. The three ways take turns, step by step, on
one thread, and medians are compared. *gradient*: how far the adapter's gradient lies from that of
float32, relative to its length.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cutlayer.drawing import tables
from cutlayer.model import wide_attention
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.weights import load_model
from cutlayer.settings.compute import Precision
from cutlayer.settings.model import Model
from environment import describe

REPORT = Path(__file__).parent / "reports" / "cpu_precision.md"
CLASSES, STEPS = 10, 15
WAYS: dict[str, tuple[Precision, str]] = {
    "float32": ("float32", "sdpa"),
    "bfloat16, torch's attention": ("bfloat16", "sdpa"),
    "bfloat16, attention in float32": ("bfloat16", wide_attention.NAME),
}
"""The precision, and what transformers calls the attention."""
COLUMNS = (
    tables.Column("side", "pixels a side", "count"),
    tables.Column("tokens", "tokens", "count"),
    tables.Column("way", "way", "text"),
    tables.Column("ms", "step (ms)"),
    tables.Column("ratio", "of float32's time", "ratio"),
    tables.Column("gradient", "gradient", "percent"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--sides", type=int, nargs="+", default=[98, 224])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--cut", type=int, default=4)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for side in options.sides for row in measured(options, side)]
    text = (
        f"# A training step on a CPU, by precision\n\n{describe()}\n\n"
        f"Forward and backward pass of the blocks after cut {options.cut} of "
        f"{Path(options.model).name} with LoRA, {options.images} images, one thread, medians of "
        f"{STEPS} steps taken in turn. *gradient*: the distance from float32's gradient of the "
        "adapter, relative to its length. `precision: bfloat16` computes attention in float32 "
        "while it trains on a CPU; the line before shows what torch's own takes.\n\n"
        f"    python benchmarks/cpu_precision.py MODEL --sides {' '.join(map(str, options.sides))} "
        f"--images {options.images} --cut {options.cut} --write\n\n{tables.markdown(rows, COLUMNS)}"
    )
    print(text)
    if options.write:
        REPORT.write_text(text)


def measured(options: argparse.Namespace, side: int) -> list[dict[str, object]]:
    """The three ways at one size of images."""
    settings = Model(path=options.model, image_size=side, cut=options.cut)
    model = load_model(settings, CLASSES, 0)
    draw = torch.Generator().manual_seed(0)
    adapter = {key: one.requires_grad_() for key, one in model.new_adapter(0).items()}
    route = [Segment(adapter, options.images)]
    pixels = torch.randn(options.images, 3, side, side, generator=draw)
    with torch.no_grad():
        hidden = model.device_forward({"pixel_values": pixels}, options.cut, route).hidden
    labels = torch.randint(CLASSES, (options.images,), generator=draw)
    trained = [adapter[name] for name in model.server_names(options.cut)]

    def step() -> Tensor:
        loss = F.cross_entropy(model.server_forward(hidden, None, options.cut, route), labels)
        return torch.cat([one.ravel() for one in torch.autograd.grad(loss, trained)])

    times: dict[str, list[float]] = {way: [] for way in WAYS}
    gradients = {}
    for _ in range(STEPS + 1):
        for way, (precision, attention) in WAYS.items():
            seconds, gradients[way] = timed(step, model, precision, attention)
            times[way].append(seconds)
    exact = gradients["float32"]
    medians = {way: statistics.median(own[1:]) for way, own in times.items()}
    return [
        {
            "side": side,
            "tokens": hidden.shape[1],
            "way": way,
            "ms": 1e3 * medians[way],
            "ratio": medians[way] / medians["float32"],
            "gradient": float((gradients[way] - exact).norm() / exact.norm()),
        }
        for way in WAYS
    ]


def timed(
    step: Callable[[], Tensor], model: CutModel, precision: Precision, attention: str
) -> tuple[float, Tensor]:
    """Processor seconds of a step, and the gradient."""
    model.use(precision)
    model.module.config._attn_implementation = attention  # type: ignore[union-attr]
    began = time.process_time()
    gradient = step()
    return time.process_time() - began, gradient


if __name__ == "__main__":
    main()
