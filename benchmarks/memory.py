"""Memory of a training loop's data: many JPEG files against few, each in a process of its own.

    python benchmarks/memory.py [--images 50000] [--write]

Random pictures of 224 x 224 pixels, in folders and in a parquet file, read as a model of 224 pixels
reads them, by default in batches of 64 until some 4,000 were taken in an order drawn at random.
Peak resident memory of the process (VmHWM of Linux) is compared.
"""

import argparse
import io
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from cutlayer.drawing import tables
from environment import describe

REPORTS = Path(__file__).parent / "reports"
FEW = 2000
CLASSES = 10
READ = """
import re, sys, time
import numpy as np
from cutlayer.data.sources import load
from cutlayer.resize import Fit
from cutlayer.settings.data import Data

source, path, count = sys.argv[1:]
data = Data(source=source, path=path, test_path=path, test_samples=10, train_samples=int(count))
began = time.perf_counter()
train, _ = load(data, 0, Fit(side=224, edge=256, keep_aspect=True))
loaded, taken = time.perf_counter(), 0
order = np.random.default_rng(0).permutation(len(train))[:4000]
for start in range(0, len(order), 64):
    train.expect(order[start + 64 : start + 128])
    taken += len(train.subset(order[start : start + 64]).inputs)
ended = time.perf_counter()
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(peak, loaded - began, taken / (ended - loaded))
"""


def write(folder: Path, count: int) -> None:
    """`count` JPEG files in folders of classes, and the same in one parquet file."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / "files" / f"class-{label}").mkdir(parents=True)
    with pa.parquet.ParquetWriter(folder / "images.parquet", SCHEMA) as table:
        for first in range(0, count, 1000):
            cells, labels = [], []
            for number in range(first, min(first + 1000, count)):
                # Enlarged noise: a JPEG of some 10 kB, as a photograph of this size is.
                rough = Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8))
                out = io.BytesIO()
                rough.resize((224, 224), Image.Resampling.BICUBIC).save(out, "jpeg")
                label = number % CLASSES
                place = folder / "files" / f"class-{label}" / f"{number}.jpg"
                place.write_bytes(out.getvalue())
                cells.append({"bytes": out.getvalue(), "path": None})
                labels.append(label)
            table.write_table(pa.table({"image": cells, "label": labels}, SCHEMA))


SCHEMA = pa.schema(
    {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()}
)


def measure(source: str, path: Path, count: int) -> dict:
    """A row: peak memory, seconds of loading, and images a second."""
    done = subprocess.run(
        [sys.executable, "-c", READ, source, str(path), str(count)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    peak, loading, rate = map(float, done.stdout.split())
    return {"data": f"{source}, {count:,}", "peak": peak, "loading": loading, "rate": rate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--write", action="store_true", help="write reports/memory.md")
    wanted = parser.parse_args()
    with TemporaryDirectory() as place:
        rows = []
        for count in (FEW, wanted.images):
            write(Path(place) / str(count), count)
        for source, name in (("folder", "files"), ("parquet", "images.parquet")):
            for count in (FEW, wanted.images):
                rows.append(measure(source, Path(place) / str(count) / name, count))
    columns = (
        tables.Column("data", "data", "text"),
        tables.Column("peak", "peak memory (MiB)"),
        tables.Column("loading", "loading (s)"),
        tables.Column("rate", "images a second"),
    )
    text = (
        f"# Memory of many images\n\n{describe()}\n\nJPEG files of 224 x 224 pixels, decoded when "
        "they are needed, in batches of 64 drawn at random, 4,000 at most. Decoded ahead, "
        f"{wanted.images:,} would take {wanted.images * 3 * 224**2 / 2**20:,.0f} MiB."
        f"\n\n{tables.markdown(rows, columns)}\n"
    )
    print(text)
    if wanted.write:
        (REPORTS / "memory.md").write_text(text)


if __name__ == "__main__":
    main()
