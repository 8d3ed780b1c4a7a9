"""How good a trained model is: on the held-out set, and on each device's own mix of labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from cutlayer.allocate.decision import Decision
from cutlayer.data.dataset import Dataset
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.lora import Adapter, Segment
from cutlayer.seeds import derive, torch_rng
from cutlayer.train.pool import shorten
from cutlayer.train.task import Task
from cutlayer.wire.codec import decode_activations, encode_activations_with
from cutlayer.wire.codecs.quantized import QuantizedCodec
from cutlayer.wire.codecs.seam import Codec


@dataclass(frozen=True)
class Evaluation:
    """Accuracy and mean cross-entropy on a data set, and accuracy class by class [C]."""

    accuracy: float
    loss: float
    by_class: tuple[float, ...]

    def on_mix(self, counts: np.ndarray) -> float:
        """Accuracy expected under another mix of labels. counts [C]: samples of each class."""
        present = counts > 0
        weights = counts[present] / counts[present].sum()
        return float(np.dot(weights, np.asarray(self.by_class)[present]))


def evaluate(
    task: Task,
    model: CutModel,
    preprocess: Preprocessor,
    adapter: Adapter,
    data: Dataset,
    batch: int = 128,
) -> Evaluation:
    """Evaluate the unsplit model with `adapter` on `data`, as an exported adapter would serve."""

    def logits_of(part: Dataset, start: int) -> torch.Tensor:
        return model.forward(_inputs(model, preprocess, part), [Segment(adapter, len(part))])

    return _score(task, logits_of, data, batch)


def evaluate_through_cut(
    job: Job,
    task: Task,
    decision: Decision,
    model: CutModel,
    preprocess: Preprocessor,
    adapter: Adapter,
    data: Dataset,
    fitted: Codec | None = None,
    batch: int = 128,
) -> Evaluation:
    """Evaluate as a device and a server would serve together, with one decision's tokens and bits.

    decision: of cut, tokens and bits. fitted: the run's codec, of uplinks whose codec is fitted.
    """
    cut = decision.cut
    tokens = decision.selection(job.method)
    codec = fitted or QuantizedCodec(decision.uplink(job.method), derive(job.seed, "rotation"))

    def logits_of(part: Dataset, start: int) -> torch.Tensor:
        route = [Segment(adapter, len(part))]
        score = tokens.score if decision.tokens is not None else None
        inputs = _inputs(model, preprocess, part)
        activations = model.device_forward(inputs, cut, route, score=score)
        sent = shorten(activations, slice(None), tokens, model.spec.prefix)
        message = task.message(0, 0, 0, sent.hidden, sent.mask, task.targets(part))
        message = replace(message, places=sent.places)
        rng = torch_rng(job.seed, "evaluate", start)
        (frame,) = encode_activations_with(codec, [message], [rng])
        received = decode_activations(frame, codec=codec)
        mask = received.mask.to(model.compute) if received.mask is not None else None
        return model.server_forward(received.hidden.to(model.compute), mask, cut, route)

    return _score(task, logits_of, data, batch)


def _inputs(model: CutModel, preprocess: Preprocessor, part: Dataset) -> dict[str, torch.Tensor]:
    return {k: v.to(model.compute) for k, v in preprocess(part.inputs).items()}


def _score(
    task: Task, logits_of: Callable[[Dataset, int], torch.Tensor], data: Dataset, batch: int
) -> Evaluation:
    scores = []
    with torch.no_grad():
        for start in range(0, len(data), batch):
            part = data.subset(np.arange(start, min(start + batch, len(data))))
            scores.append(task.score(logits_of(part, start), task.targets(part)))
    right = np.sum([score.right for score in scores], axis=0)
    count = np.sum([score.count for score in scores], axis=0)
    by_class = np.divide(right, count, out=np.zeros(len(right)), where=count > 0)
    loss = sum(score.loss for score in scores)
    return Evaluation(right.sum() / len(data), loss / len(data), tuple(by_class.tolist()))
