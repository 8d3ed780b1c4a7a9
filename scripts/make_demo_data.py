"""Draw the demo's images from the full Fashion-MNIST and write them as one compressed file.

The four idx files come from the project (https://github.com/zalandoresearch/fashion-mnist) or from
Debian's package `dataset-fashion-mnist`, which puts them in /usr/share/datasets/fashion-mnist:

    python scripts/make_demo_data.py /usr/share/datasets/fashion-mnist src/cutlayer/assets

writes `fashion-mnist.npz`: 400 training images of each class from the official training split and
100 test images of each class from the official test split, chosen and shuffled by the seed. The
array `train_rows` holds the training images' rows in the official split, so that pretraining can
leave exactly them out. Takes two seconds; the same seed gives the same bytes.
"""

import argparse
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SPLITS = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped idx file of bytes: the magic number's last byte counts the dimensions."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\x00\x00\x08":
        raise SystemExit(f"{path} is not an idx file of unsigned bytes; give Fashion-MNIST's files")
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [n,28,28] and labels [n] of one official split ("train" or "test"), both uint8."""
    name = SPLITS[split]
    images = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
    return images, read_idx(folder / f"{name}-labels-idx1-ubyte.gz")


def balanced_rows(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `per_class` rows of each class without repetition, in shuffled order."""
    rows = [
        rng.choice(np.flatnonzero(labels == index), per_class, replace=False)
        for index in range(len(CLASSES))
    ]
    return rng.permutation(np.concatenate(rows))


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write what `np.savez_compressed` would, without today's date: same arrays, same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, buffer.getvalue(), compresslevel=9)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of the four idx .gz files")
    parser.add_argument("out", type=Path, help="folder to write fashion-mnist.npz into")
    parser.add_argument("--train", type=int, default=400, help="training images of each class")
    parser.add_argument("--test", type=int, default=100, help="test images of each class")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    rng = np.random.default_rng(args.seed)
    train_images, train_labels = read_split(args.source, "train")
    test_images, test_labels = read_split(args.source, "test")
    train_rows = balanced_rows(train_labels, args.train, rng)
    test_rows = balanced_rows(test_labels, args.test, rng)
    path = args.out / "fashion-mnist.npz"
    write_npz(
        path,
        {
            "train_images": train_images[train_rows],
            "train_labels": train_labels[train_rows],
            "test_images": test_images[test_rows],
            "test_labels": test_labels[test_rows],
            "classes": np.array(CLASSES),
            "train_rows": train_rows.astype(np.int32),
        },
    )
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
