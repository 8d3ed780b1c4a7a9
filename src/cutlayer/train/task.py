"""What a model is trained for: targets, how they are sent, loss, metric and export.

Classifying images and classifying texts are one task; the modality only changes what the model
reads. Its head is `model.lora.BankHead`, which is a part of the adapter. Language (language.py) is
another task, with the checkpoint's own head.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cutlayer.data.dataset import Dataset
from cutlayer.errors import FrameError, JobError
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.export import save_adapter
from cutlayer.model.lora import Adapter
from cutlayer.model.spec import ModelSpec
from cutlayer.train.accuracy import Evaluation, Tested
from cutlayer.train.device_sums import device_sums
from cutlayer.train.language import Language
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.transfer import to_device

Inputs = Mapping[str, Tensor]
"""A batch as the model reads it (see model.inputs.Preprocessor)."""

Outputs = Iterable[tuple[Tensor, Tensor]]
"""Logits and targets of a data set, batch by batch."""


class Task(Protocol):
    """What training and evaluation ask of a task. B samples, M devices."""

    @property
    def test_batch(self) -> int:
        """How many samples a test's batch has; their outputs are in memory together."""
        ...

    def targets(self, batch: Dataset, inputs: Inputs) -> Tensor:
        """The targets of each sample, on the CPU: [B, ...].

        inputs: the batch as the model reads it.
        """
        ...

    def message(
        self, device: int, round: int, step: int, hidden: Tensor, mask: Tensor | None, goal: Tensor
    ) -> ActivationsMessage:
        """The message of a batch: its activations and its targets `goal`."""
        ...

    def received(self, message: ActivationsMessage) -> Tensor:
        """The targets that came with activations. Raises FrameError for those of another task."""
        ...

    def learnt(self, targets: Sequence[Tensor]) -> Tensor | None:
        """[B,T] bool, on the CPU: the tokens whose outputs `losses` takes; None for all of them."""
        ...

    def losses(self, outputs: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """The mean loss of each device [M], for a batch that mixes M devices.

        outputs: the logits of tokens that are learnt.
        """
        ...

    def weight(self, targets: Tensor) -> int:
        """How much a batch counts in the average of the devices' adapters."""
        ...

    def evaluation(self, outputs: Outputs, data: Dataset) -> Tested:
        """The scores of outputs on `data`, without the settings of the training loss."""
        ...

    def export(
        self, adapter: Adapter, model: CutModel, folder: Path, classes: Sequence[str]
    ) -> None:
        """Write what was trained so that other programs load it. classes: their names, in order."""
        ...


@dataclass(frozen=True, eq=False)
class Classification:
    """One label a sample. classes: how many; smoothing, weights: see settings.Training."""

    classes: int
    smoothing: float = 0.0
    weights: tuple[float, ...] = ()

    @property
    def test_batch(self) -> int:
        """See Task."""
        return 128

    def targets(self, batch: Dataset, inputs: Inputs) -> Tensor:
        """The labels: int64 [B]."""
        return torch.from_numpy(batch.labels)

    def message(
        self, device: int, round: int, step: int, hidden: Tensor, mask: Tensor | None, goal: Tensor
    ) -> ActivationsMessage:
        """See Task. A label takes as many bits as tell the classes apart."""
        return ActivationsMessage(device, round, step, hidden, mask, goal, self.classes)

    def received(self, message: ActivationsMessage) -> Tensor:
        """See Task."""
        if message.num_classes != self.classes or message.labels.dim() != 1:
            raise FrameError(
                f"frame: device {message.device} sent labels of {message.num_classes} classes, not "
                f"of {self.classes}: run the same job on both sides"
            )
        return message.labels

    def learnt(self, targets: Sequence[Tensor]) -> Tensor | None:
        """See Task. Of all samples, which have one output each."""
        return None

    def losses(self, outputs: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """See Task. outputs: logits [B, C]; the loss is the cross-entropy."""
        sizes, place = [len(rows) for rows in targets], outputs.device
        goal = to_device(torch.cat(list(targets)), place)
        weight = None
        if self.weights:
            weight = to_device(torch.tensor(self.weights, dtype=outputs.dtype), place)
        each = F.cross_entropy(
            outputs, goal, weight, reduction="none", label_smoothing=self.smoothing
        )
        if weight is None:
            return device_sums(each, sizes) / to_device(torch.tensor(sizes), outputs.device)
        return device_sums(each, sizes) / device_sums(weight[goal], sizes)

    def weight(self, targets: Tensor) -> int:
        """See Task. The number of samples."""
        return len(targets)

    def evaluation(self, outputs: Outputs, data: Dataset) -> Evaluation:
        """See Task. The class of the largest logit is predicted; no smoothing, no weights."""
        loss, predicted = 0.0, []
        for given, targets in outputs:
            logits = given.float().cpu()
            loss += F.cross_entropy(logits, targets, reduction="sum").item()
            predicted.append(logits.argmax(1).numpy())
        return Evaluation(
            loss / len(data), data.labels, np.concatenate(predicted), len(data.classes)
        )

    def export(
        self, adapter: Adapter, model: CutModel, folder: Path, classes: Sequence[str]
    ) -> None:
        """See Task. In PEFT's format, or as a whole checkpoint if every weight was trained."""
        save_adapter(adapter, model, folder, classes)


def task_of(job: Job, spec: ModelSpec) -> Task:
    """The task of a job with a model. spec: with the classes of the data. Raises JobError."""
    training = job.training
    weights = len(training.class_weights)
    if spec.parts.language:
        if weights:
            raise JobError(
                f"training.class_weights: {weights} numbers, but {spec.path} is a language model, "
                "which predicts no classes: leave them out"
            )
        return Language(
            spec.vocabulary, spec.max_tokens, training.loss_on, training.label_smoothing
        )
    if weights and weights != spec.num_classes:
        raise JobError(
            f"training.class_weights: {weights} numbers for data of {spec.num_classes} "
            "classes: give one a class, or none"
        )
    return Classification(spec.num_classes, training.label_smoothing, training.class_weights)
