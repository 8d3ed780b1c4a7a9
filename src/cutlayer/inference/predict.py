"""The verb `predict`: a run's trained model predicts the classes of samples without labels."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cutlayer.data.dataset import Dataset
from cutlayer.data.unlabelled import image_files, no_labels, read_image, read_texts
from cutlayer.errors import DataError, RunError
from cutlayer.inference.trained import Trained, load_trained

_BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """The model's prediction for one sample.

    sample: its file; for a text FILE:LINE. label: the most probable class. probabilities: of every
    class by name, in the run's order; they add up to 1.
    """

    sample: str
    label: str
    probabilities: dict[str, float]

    @property
    def probability(self) -> float:
        """The probability of the label."""
        return self.probabilities[self.label]


def predict(
    run: str | Path,
    *,
    files: str | Path | Sequence[str | Path],
    through_cut: bool = False,
    device: int | None = None,
) -> list[Prediction]:
    """Ask the trained model of the run in folder `run` about files.

    files: images, and folders of images; for a model of texts, UTF-8 files of one text a line.
    through_cut, device: see `evaluate`. The prediction for a file does not depend on other files.
    Raises RunError, JobError, DataError or ModelError, each with one sentence.
    """
    several = [files] if isinstance(files, str | Path) else files
    paths = [Path(file).expanduser() for file in several]
    if not paths:
        raise DataError("FILES: none are named: name the files to ask about")
    trained = load_trained(run, device)
    if trained.model.spec.parts.language:
        raise RunError(
            f"RUN: {trained.model.spec.path} is a language model, which predicts no classes: ask "
            "it with cutlayer generate"
        )
    logits_of = trained.logits_of(through_cut)
    # Rounding at the cut may depend on the whole batch, so there each sample is its own batch.
    batches = _batches(trained, paths, 1 if through_cut else _BATCH)
    found = []
    for names, part in batches:
        with torch.no_grad():
            shares = torch.softmax(logits_of(part, 0).logits.double().cpu(), dim=1).tolist()
        for name, row in zip(names, shares, strict=True):
            by_class = dict(zip(trained.classes, row, strict=True))
            label = trained.classes[max(range(len(row)), key=row.__getitem__)]
            found.append(Prediction(name, label, by_class))
    return found


def to_json(predictions: Sequence[Prediction]) -> str:
    """A JSON array of one object a sample."""
    values = [
        {
            "sample": one.sample,
            "class": one.label,
            "probability": one.probability,
            "probabilities": one.probabilities,
        }
        for one in predictions
    ]
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def to_csv(predictions: Sequence[Prediction]) -> str:
    """A line a sample: sample, class, probability, then the probability of each class."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    classes = list(predictions[0].probabilities) if predictions else []
    writer.writerow(["sample", "class", "probability", *classes])
    for one in predictions:
        writer.writerow([one.sample, one.label, one.probability, *one.probabilities.values()])
    return stream.getvalue()


def _batches(
    trained: Trained, paths: Sequence[Path], most: int
) -> Iterator[tuple[list[str], Dataset]]:
    """Batches of at most `most` samples, with their names."""
    classes = trained.classes
    if trained.model.spec.modality == "text":
        names, texts = read_texts(paths)
        for start in range(0, len(texts), most):
            part = texts[start : start + most]
            yield names[start : start + most], Dataset(part, no_labels(len(part)), classes)
        return
    held: list[torch.Tensor] = []
    called: list[str] = []
    for path in image_files(paths):
        image = read_image(path, trained.preprocess.fit)
        if held and (len(held) == most or held[0].shape != image.shape):
            yield called, Dataset(torch.cat(held), no_labels(len(held)), classes)
            held, called = [], []
        held.append(image)
        called.append(str(path))
    yield called, Dataset(torch.cat(held), no_labels(len(held)), classes)
