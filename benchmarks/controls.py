"""What devices add to generated data: the same training without devices, and with real images.

    python benchmarks/controls.py --runs DIR [--public /usr/share/datasets/fashion-mnist] [--write]

Three seeds on the demo's data and ViT. The devices' images, as many that the bundled generator
draws, and as many of the real ones that it was trained on are written as folders below DIR; every
line trains on them by one job. The real ones are those of Debian's package `dataset-fashion-mnist`
that are not in the demo. Finished runs are kept. --write puts the table into
benchmarks/reports/controls.md.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from controls_findings import findings
from cutlayer.data.dataset import Dataset
from cutlayer.data.generate import load_generator
from cutlayer.data.sources import load
from cutlayer.drawing import tables
from cutlayer.job import Job, make_job
from cutlayer.record.row_lines import read_rows
from cutlayer.rounds.progress import Silent
from cutlayer.settings.data import Data
from cutlayer.settings.generator import GeneratorSettings
from cutlayer.simulation.simulate import simulate
from environment import describe

ROOT = Path(__file__).parents[1]
REPORT = Path(__file__).parent / "reports" / "controls.md"
SEEDS = (0, 1, 2)
IMAGES, TESTS, ROUNDS, DEVICES, A_ROUND = 240, 1000, 6, 8, 40
ALPHA = 0.1
LR = 2e-3

DEVICES_ALONE = "devices alone"
WITH_GENERATED = "devices and generated images"
WITH_PUBLIC = "devices and real public images"
GENERATED_ONCE = "generated images alone, seen once"
GENERATED = "generated images alone"
PUBLIC = "real public images alone"
CENTRAL = "devices' images in one place"
CENTRAL_BOTH = "devices' and generated images in one place"


@dataclass(frozen=True)
class Line:
    """What a line trains: which images of which folder, by which method, for how many rounds.

    beside: the folder that the server draws from in each round; None: nothing.
    """

    method: str
    images: str
    rounds: int
    beside: str | None = None


LINES = {
    DEVICES_ALONE: Line("fedlora", "devices", ROUNDS),
    WITH_GENERATED: Line("genfl", "devices", ROUNDS, "generated"),
    WITH_PUBLIC: Line("genfl", "devices", ROUNDS, "public"),
    GENERATED_ONCE: Line("centralized", "generated", 1),
    GENERATED: Line("centralized", "generated", ROUNDS),
    PUBLIC: Line("centralized", "public", ROUNDS),
    CENTRAL: Line("centralized", "devices", ROUNDS),
    CENTRAL_BOTH: Line("centralized", "both", ROUNDS),
}


def job_of(line: Line, seed: int, folder: Path) -> Job:
    """The line's job. folder: of the images."""
    images = folder / f"seed-{seed}"
    values: dict[str, Any] = {
        "seed": seed,
        "data": {
            "source": "folder",
            "path": str(images / line.images),
            "test_path": str(folder / "test"),
            "partition": {"kind": "dirichlet", "alpha": ALPHA, "min_samples": 8},
        },
        "devices": {"count": DEVICES},
        "method": {"name": line.method},
        "training": {
            "rounds": line.rounds,
            "batch_size": 16,
            "lr": LR,
            "evaluate_every": line.rounds,
            "pool": DEVICES,
        },
    }
    if line.beside:
        drawn = {"source": "folder", "path": str(images / line.beside)}
        values["generated"] = {"generator": drawn, "amount": A_ROUND}
    return make_job(values)


def write_images(folder: Path, public: Path) -> None:
    """Write all folders of images that are not there."""
    demo = Data(source="demo", test_samples=TESTS, train_samples=IMAGES)
    if not (folder / "test").is_dir():
        write(folder / "test", load(demo, 0)[1])
    for seed in SEEDS:
        place = folder / f"seed-{seed}"
        if (place / "both").is_dir():
            continue
        own, _ = load(demo, seed)
        labels = np.arange(IMAGES) % len(own.classes)
        generator = load_generator(GeneratorSettings(), own)
        drawn = Dataset(generator.generate(labels, seed), labels, own.classes)
        write(place / "devices", own)
        write(place / "generated", drawn)
        write(place / "public", public_images(public, labels, own.classes, seed))
        write(place / "both", own, "own-")
        write(place / "both", drawn, "drawn-")
        print(place, flush=True)


def write(folder: Path, images: Dataset, start: str = "") -> None:
    """One subfolder of PNG files a class; a class's name may not have a slash there."""
    assert isinstance(images.inputs, torch.Tensor)
    for number, (pixels, label) in enumerate(zip(images.inputs, images.labels, strict=True)):
        place = folder / images.classes[label].replace("/", " or ")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0].numpy()).save(place / f"{start}{number}.png")


def public_images(source: Path, labels: np.ndarray, classes: tuple[str, ...], seed: int) -> Dataset:
    """Real images of these labels [n] that the generator was trained on, or held out from."""
    sys.path.append(str(ROOT / "scripts"))
    from train_demo_generator import public_images as known

    images, known_labels = known(source, ROOT / "src" / "cutlayer" / "assets")
    rng = np.random.default_rng(seed)
    chosen = np.concatenate(
        [
            rng.choice(np.flatnonzero(known_labels == label), int((labels == label).sum()), False)
            for label in range(len(classes))
        ]
    )
    return Dataset(
        torch.from_numpy(images[chosen]).unsqueeze(1), known_labels[chosen].astype(int), classes
    )


def accuracy(name: str, seed: int, runs: Path) -> float:
    """Of a line's run, which is trained if it is not there."""
    out = runs / "runs" / f"{re.sub('[^a-z]+', '-', name)}-{seed}"
    if not (out / "adapter").is_dir():
        simulate(job_of(LINES[name], seed, runs), out=out, progress=Silent())
        print(out, flush=True)
    found = read_rows(out)[-1].accuracy
    assert found is not None
    return found


COLUMNS = (
    tables.Column("line", "trained on", "text"),
    tables.Column("accuracy", "accuracy", "percent"),
    tables.Column("images", "images seen", "count"),
)
TEXT = """\
# What devices add to generated data

{environment}

The demo's ViT with LoRA, {images} real images among {devices} devices (Dirichlet {alpha}), {tests}
test images, {rounds} rounds of one epoch, batches of 16, AdamW {lr}; mean and range over {seeds}
seeds. *generated images*: {images} of the bundled diffusion model, *real public images*: {images}
of those that it was made from (of Debian's package dataset-fashion-mnist), both with all classes
alike; the server draws {a_round} of them in each round. *alone*, *in one place*: the same images
trained on centrally, {rounds} times each where
nothing else is said. *images seen*: one after another, repeats included.

{findings}

{table}
`devices' images in one place` is the upper bound of the devices' own images, and `devices' and
generated images in one place` that of both.

    python benchmarks/controls.py --runs DIR --write
"""


def seen(line: Line) -> int:
    """Images that a line's training goes through in all."""
    held = IMAGES * (2 if line.images == "both" else 1)
    return line.rounds * (held + (A_ROUND if line.beside else 0))


def report(found: Mapping[str, Mapping[int, float]], said: Sequence[str]) -> str:
    """The text of controls.md."""
    rows = [
        {"line": name, "accuracy": list(by_seed.values()), "images": seen(LINES[name])}
        for name, by_seed in found.items()
    ]
    return TEXT.format(
        environment=describe(), images=IMAGES, devices=DEVICES, alpha=ALPHA, tests=TESTS,
        rounds=ROUNDS, lr=LR, seeds=len(SEEDS), a_round=A_ROUND,
        findings="\n".join(f"- {one}" for one in said), table=tables.markdown(rows, COLUMNS),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True, help="folder of images and runs")
    parser.add_argument(
        "--public", type=Path, default=Path("/usr/share/datasets/fashion-mnist"),
        help="Fashion-MNIST's four idx files",
    )  # fmt: skip
    parser.add_argument("--write", action="store_true", help="write benchmarks/reports/controls.md")
    options = parser.parse_args()
    write_images(options.runs, options.public)
    found: dict[str, dict[int, float]] = {name: {} for name in LINES}
    for seed in SEEDS:
        for name in LINES:
            found[name][seed] = accuracy(name, seed, options.runs)
    text = report(found, list(findings(found)))
    print(text)
    if options.write:
        REPORT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
