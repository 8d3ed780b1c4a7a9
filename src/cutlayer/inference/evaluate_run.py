"""The verb `evaluate`: a run's trained model on its test set, or on other labelled samples."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cutlayer.data.dataset import Dataset
from cutlayer.data.device_data import load_folder
from cutlayer.data.sources import load
from cutlayer.drawing.notebook import paragraphs
from cutlayer.errors import RunError
from cutlayer.files import write_atomically
from cutlayer.inference.text_scores import TextScores, score_texts
from cutlayer.inference.trained import Trained, load_trained
from cutlayer.train.accuracy import Tested, TokenEvaluation
from cutlayer.train.evaluate import evaluate as score


@dataclass(frozen=True, eq=False, repr=False)
class Evaluated:
    """The figures of a run's model on test data, which a notebook shows as sentences.

    evaluation: accuracy, loss, and what else the task has.
    data: a phrase that names the data. classes: their names, in the order of the figures. texts:
    scores of the model's answers to prompts; None if they were not asked for.
    """

    evaluation: Tested
    data: str
    classes: tuple[str, ...]
    texts: TextScores | None = None

    def __repr__(self) -> str:
        return f"<Evaluated: {self.sentences()[0]}>"

    def _repr_html_(self) -> str:
        return paragraphs(self.sentences())

    @property
    def accuracy(self) -> float:
        """Share of the samples (of a language model: of the tokens) that were predicted right."""
        return self.evaluation.accuracy

    @property
    def perplexity(self) -> float | None:
        """exp of the mean loss of a token; None for models other than language models."""
        return self.evaluation.perplexity

    def to_json(self) -> str:
        """Everything measured, as one JSON object; classes by name."""
        found, names = self.evaluation, self.classes
        values = {
            "data": self.data,
            "samples": found.samples,
            "accuracy": found.accuracy,
            "loss": found.loss,
            "macro_f1": found.macro_f1,
            "perplexity": found.perplexity,
            "accuracy_by_class": dict(zip(names, found.by_class, strict=True)),
            "confusion": [[names[true], names[said], n] for true, said, n in found.confusion],
        }
        if self.texts is not None:
            values["texts"] = asdict(self.texts)
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    def sentences(self) -> list[str]:
        """The figures for people, one in each line."""
        found = self.evaluation
        if isinstance(found, TokenEvaluation):
            figure = "beyond all bounds" if found.perplexity is None else f"{found.perplexity:.3f}"
            return [
                f"perplexity {figure} on {found.samples:,} samples ({self.data})",
                f"loss       {found.loss:.3f} a token",
                f"told       {100 * found.accuracy:.1f} % of {int(found.count.sum()):,} tokens",
                *self._of_texts(),
            ]
        told = [(value, name) for name, value in zip(self.classes, found.by_class, strict=True)]
        there = sorted((value, name) for value, name in told if value is not None)
        wrong = sorted(
            (pair for pair in found.confusion if pair[0] != pair[1]), key=lambda p: -p[2]
        )
        lines = [
            f"accuracy {100 * found.accuracy:.1f} % of {found.samples:,} samples ({self.data})",
            f"loss     {found.loss:.3f}",
            f"macro F1 {100 * found.macro_f1:.1f} %",
            f"worst    {there[0][1]}, {100 * there[0][0]:.1f} % of the class",
            f"best     {there[-1][1]}, {100 * there[-1][0]:.1f} % of the class",
        ]
        for true, said, n in wrong[:3]:
            lines.append(f"wrong    {n} x {self.classes[true]} taken for {self.classes[said]}")
        return lines

    def _of_texts(self) -> list[str]:
        texts = self.texts
        if texts is None:
            return []
        return [
            f"BLEU       {texts.bleu:.1f} of {texts.prompts:,} prompts with {texts.references:,} "
            "references",
            f"ROUGE-L    {texts.rouge_l:.3f}",
            f"equal      {100 * texts.exact:.1f} % to a reference",
        ]


def evaluate(
    run: str | Path,
    *,
    data: str | Path | None = None,
    through_cut: bool = False,
    device: int | None = None,
    texts: int = 0,
    out: str | Path | None = None,
) -> Evaluated:
    """Test the trained model of the run in folder `run`.

    data: labelled samples with the run's classes: a folder with a subfolder of images for each
    class, or a table (None: the test set of the run's job). through_cut: with the tokens and bits
    that crossed the cut in training, as device and server would work together; else as one unsplit
    model. device: the device whose adapter is tested, if each device keeps its own. texts: how many
    prompts of the data a language model answers, as one unsplit model; its answers are compared
    with those in the data. out: a JSON file to write as well.
    Raises RunError, JobError, DataError or ModelError, each with one sentence.
    """
    trained = load_trained(run, device)
    logits_of = trained.logits_of(through_cut)
    samples, said = _samples(trained, data)
    tested = score(trained.task, logits_of, samples)
    scores = score_texts(trained, samples, texts) if texts else None
    found = Evaluated(tested, said, trained.classes, scores)
    if out is not None:
        write_out(Path(out), found.to_json())
    return found


def write_out(path: Path, text: str) -> None:
    """Write `text` to the file of --out. Raises RunError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as error:
        raise RunError(
            f"--out: cannot write {path} ({error.strerror or error}): give another file"
        ) from None


def _samples(trained: Trained, data: str | Path | None) -> tuple[Dataset, str]:
    job = trained.job
    if data is None:
        test = load(job.data, job.seed, trained.preprocess.fit)[1]
        if test.classes != trained.classes:
            raise RunError(
                f"RUN: the data of {trained.folder} have other classes now than it was trained on: "
                "put them back, or name others with --data"
            )
        return test, "the job's test set"
    fit = trained.preprocess.fit
    return load_folder(Path(data).expanduser(), job, trained.classes, fit), str(data)
