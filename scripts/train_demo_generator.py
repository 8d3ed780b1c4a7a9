"""Train the demo's generator on labelled Fashion-MNIST images that the demo never sees.

    python scripts/train_demo_generator.py /usr/share/datasets/fashion-mnist src/cutlayer/assets \
        --work DIR

writes DIR/public.parquet: the official training split without the 4,000 images that the demo
trains on, without any pixel-identical copy of a demo image, and without the official test split;
then trains in DIR/run as `cutlayer generator train --data DIR/public.parquet` would, which holds a
fifth of the images out. Stopped and called again, it goes on where it stopped, to the same end.
With --pack it trains nothing and packs the last checkpoint as assets/demo-generator in float16.
`cutlayer generator evaluate` measures the result.
"""

import argparse
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from cutlayer.data import diffusion
from cutlayer.generation.train import resume_generator, train_generator
from cutlayer.job import make_job
from cutlayer.settings.generator import GeneratorTraining
from make_demo_data import CLASSES, read_split


def public_images(source: Path, assets: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images [n,28,28] uint8 and labels [n] of the training split that are not in the demo."""
    images, labels = read_split(source, "train")
    with np.load(assets / "fashion-mnist.npz", allow_pickle=False) as demo:
        used = {image.tobytes() for part in ("train", "test") for image in demo[f"{part}_images"]}
    free = np.array([image.tobytes() not in used for image in images])
    return images[free], labels[free]


def write_parquet(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """PNG bytes and numbered labels, with the classes' names where Hugging Face keeps them."""
    encoded = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG", compress_level=1)
        encoded.append(stream.getvalue())
    features = {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    table = pa.table({"image": encoded, "label": labels.astype(np.int64)})
    described = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": described}), path)


def pack(run: Path, folder: Path) -> None:
    """Write the trained model at `run` in float16, which halves its size."""
    model, unet = diffusion.load(run)
    shutil.rmtree(folder, ignore_errors=True)
    diffusion.save(folder, model, unet.state_dict(), small=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of the four idx .gz files")
    parser.add_argument("assets", type=Path, help="folder of fashion-mnist.npz")
    parser.add_argument("--work", type=Path, required=True, help="folder of the data and the run")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pack", action="store_true", help="pack the last checkpoint, no training")
    args = parser.parse_args()

    if args.pack:
        pack(args.work / "run", args.assets / "demo-generator")
        return
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    parquet, run = args.work / "public.parquet", args.work / "run"
    if not parquet.is_file():
        write_parquet(parquet, *public_images(args.source, args.assets))

    def say(line: str) -> None:
        print(line, flush=True)

    if (run / "state.safetensors").is_file():
        resume_generator(run, say)
    else:
        data = {"source": "parquet", "path": str(parquet.resolve())}
        settings = GeneratorTraining(steps=args.steps, batch_size=64, precision="bfloat16")
        train_generator(make_job({"seed": args.seed, "data": data}), settings, run, say)


if __name__ == "__main__":
    main()
