"""`cutlayer generator evaluate`: figures and a sheet for the images of a generator."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from cutlayer.data.dataset import Dataset, Indices, stratified
from cutlayer.data.generate import load_generator
from cutlayer.data.sources import load
from cutlayer.drawing import tables
from cutlayer.drawing.sheets import sheet
from cutlayer.drawing.tables import Column
from cutlayer.errors import JobError, RunError
from cutlayer.files import write_atomically
from cutlayer.generation import scores
from cutlayer.generation.train import JOB
from cutlayer.job import Job, load_job
from cutlayer.model.cut import CutModel
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.weights import load_model
from cutlayer.seeds import derive, numpy_rng
from cutlayer.settings.generator import GeneratorSettings as Settings
from cutlayer.train.compute import find_compute

if TYPE_CHECKING:
    from rich.table import Table

SHEET_COLUMNS = 8
COLUMNS = (
    Column("measure", "measure", "text"),
    Column("generated", "generated", "text"),
    Column("real", "real", "text"),
)


@dataclass(frozen=True)
class Evaluation:
    """The figures of generated images, each beside that of real images.

    accuracy: of a classifier that was trained on real images, on generated and on real ones;
    accuracy_by_class [C]: on generated ones. frechet: distance to the real test images, of
    generated images and of equally many real training images, by features of `features_of`.
    memory: for features and for pixels, distances to the images named by `pool_of`. classifier,
    features_of, pool_of: phrases that describe these.
    """

    generator: dict[str, Any]
    classes: tuple[str, ...]
    images: int
    seconds_per_image: float
    classifier: str
    accuracy: dict[str, float]
    accuracy_by_class: tuple[float, ...]
    features_of: str
    frechet: dict[str, float]
    pool_of: str
    memory: dict[str, scores.Memory]

    def tables(self) -> list[Table]:
        """The figures as tables for a terminal of 80 columns."""
        by_class = [
            {"class": name, "accuracy": value}
            for name, value in zip(self.classes, self.accuracy_by_class, strict=True)
        ]
        return [
            tables.render(self._rows(), COLUMNS),
            tables.render(
                by_class,
                [Column("class", "class", "text"), Column("accuracy", "accuracy", "percent")],
            ),
        ]

    def notes(self) -> list[str]:
        """Sentences that explain the rows of the table."""
        return [
            f"accuracy: {self.classifier}",
            f"Frechet distance: to the real test images, in {self.features_of}",
            f"nearest: median distance to the nearest of {self.pool_of}",
            "nearer than 99 % of real ones: about 1 % unless images are learned by heart",
        ]

    def _rows(self) -> list[dict[str, str]]:
        rows = [
            _row("accuracy (%)", *(f"{100 * self.accuracy[k]:.1f}" for k in ("generated", "real"))),
            _row("Frechet distance", *(f"{self.frechet[k]:.2f}" for k in ("generated", "real"))),
        ]
        for space, found in self.memory.items():
            rows += [
                _row(f"nearest, {space}", f"{found.generated:.2f}", f"{found.real:.2f}"),
                _row(
                    f"nearer than 99 % of real ones, {space} (%)", f"{100 * found.copies:.1f}", "1"
                ),
            ]
        rows.append(_row("seconds an image", f"{self.seconds_per_image:.3f}", tables.MISSING))
        return rows


def evaluate_generator(
    job: Job,
    settings: Settings,
    out: Path,
    per_class: int = 100,
    trained_on: Job | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Measure `per_class` generated images of each class; writes evaluation.json and sheet.png to
    `out`.

    job: its training images train the classifier, its test images are compared with, and its model
    gives the features. trained_on: a job with the training images of the generator, where nearest
    neighbours are looked for; None: the job.yaml in the generator's folder, else `job`.
    Raises DataError, JobError or ModelError for what cannot be read, RunError for the folder.
    """
    train, test = load(job.data, job.seed)
    if train.report is not None:
        say(train.report.line)
    compute, count = find_compute(job.training.compute), len(train.classes)
    generator = load_generator(settings, train, compute)
    pool, pool_of = _pool(train, settings, trained_on)
    model = load_model(job.model, count, job.seed).to(compute)

    say(f"drawing {count * per_class:,} images")
    labels = np.repeat(np.arange(count), per_class)
    drawn = Dataset(
        generator.generate(labels, derive(job.seed, "evaluate", "generator")), labels, train.classes
    )
    say(f"training a classifier on {len(train):,} real images")
    network = scores.train_classifier(train, job.seed)
    right, by_class = scores.accuracy(network, drawn)

    say(f"comparing with {pool_of}")
    some = stratified(
        train.labels, min(len(train), len(drawn)), numpy_rng(job.seed, "evaluate", "real")
    )
    frechet, memory, nearest = _compare(
        model, _images(drawn), _images(train.subset(some)), _images(test), _images(pool)
    )
    found = Evaluation(
        generator=settings.model_dump(mode="json"),
        classes=train.classes,
        images=len(drawn),
        seconds_per_image=generator.seconds_per_image or 0.0,
        classifier=f"a small convolutional network trained on {len(train):,} real images, "
        f"tested on {len(test):,}",
        accuracy={"generated": right, "real": scores.accuracy(network, test)[0]},
        accuracy_by_class=tuple(by_class),
        features_of=f"the features of the model {job.model.path}",
        frechet=frechet,
        pool_of=pool_of,
        memory=memory,
    )
    shown = np.arange(count)[:, None] * per_class + np.arange(min(SHEET_COLUMNS, per_class))
    panels = {
        "generated": _images(drawn).numpy()[shown],
        f"nearest of {len(pool):,} training images, by pixels": _images(pool).numpy()[
            nearest[shown]
        ],
    }
    _write(out, found, panels)
    return found


def _compare(
    model: CutModel, drawn: Tensor, real: Tensor, unseen: Tensor, pool: Tensor
) -> tuple[dict[str, float], dict[str, scores.Memory], Indices]:
    """Frechet distances to `unseen`, distances to `pool` by space, and the nearest by pixels."""
    preprocess = Preprocessor(model.spec, model.compute)
    of_drawn, of_real, of_unseen, of_pool = (
        scores.features(model, preprocess, images) for images in (drawn, real, unseen, pool)
    )
    frechet = {
        "generated": scores.frechet(of_drawn, of_unseen),
        "real": scores.frechet(of_real, of_unseen),
    }
    by_features = scores.memory(
        scores.nearest(of_drawn, of_pool)[0], scores.nearest(of_unseen, of_pool)[0]
    )
    dots = scores.pixels(pool)
    distances, nearest = scores.nearest(scores.pixels(drawn), dots)
    by_pixels = scores.memory(distances, scores.nearest(scores.pixels(unseen), dots)[0])
    return frechet, {"features": by_features, "pixels": by_pixels}, nearest


def _images(data: Dataset) -> Tensor:
    assert isinstance(data.inputs, Tensor)  # a generator was loaded for them
    return data.inputs


def _pool(train: Dataset, settings: Settings, trained_on: Job | None) -> tuple[Dataset, str]:
    """The images that the generator may have learned by heart, and a phrase that names them."""
    own = Path(settings.path or "") / JOB
    if trained_on is None and settings.source == "diffusion" and own.is_file():
        trained_on = load_job(own)
    if trained_on is None:
        return train, f"the job's {len(train):,} training images (not the generator's own)"
    pool, _ = load(trained_on.data, trained_on.seed)
    if not isinstance(pool.inputs, Tensor) or pool.inputs.shape[1:] != _images(train).shape[1:]:
        raise JobError(
            "--trained-on: these are not images of the data's size and channels: name the images "
            "that the generator was trained on"
        )
    return pool, f"the {len(pool):,} images the generator was trained on"


def _row(measure: str, generated: str, real: str) -> dict[str, str]:
    return {"measure": measure, "generated": generated, "real": real}


def _write(out: Path, found: Evaluation, panels: dict[str, np.ndarray]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(
            out / "evaluation.json", (json.dumps(asdict(found), indent=2) + "\n").encode()
        )
        sheet(panels, found.classes, out / "sheet.png")
    except OSError as error:
        raise RunError(
            f"--out: cannot write in {out} ({error.strerror or error}): give another folder"
        ) from None
