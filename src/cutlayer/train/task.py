"""What a model is trained for: its targets, how they travel, its loss, its metric, its export.

Classifying images and classifying texts are one task; the modality only changes what the model
reads. The head that belongs to the task is `model.lora.BankHead`, which an adapter brings.
"""

from collections.abc import Sequence
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
from cutlayer.wire.codec import ActivationsMessage


@dataclass(frozen=True, eq=False)
class Score:
    """How good outputs are. loss: summed over the samples; predicted: the class of each [B]."""

    loss: float
    predicted: np.ndarray


class Task(Protocol):
    """What training and evaluation ask of a task. B samples, M devices."""

    def targets(self, batch: Dataset) -> Tensor:
        """What the model should say of each sample, on the CPU: [B, ...]."""
        ...

    def message(
        self, device: int, round: int, step: int, hidden: Tensor, mask: Tensor | None, goal: Tensor
    ) -> ActivationsMessage:
        """How the targets `goal` of a batch travel: beside its activations."""
        ...

    def received(self, message: ActivationsMessage) -> Tensor:
        """The targets that came with activations. Raises FrameError for those of another task."""
        ...

    def losses(self, outputs: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """[M]: the mean loss of each device's rows of a batch that mixes M devices."""
        ...

    def score(self, outputs: Tensor, targets: Tensor) -> Score:
        """How good outputs are, by the task's metric, whatever the loss was that trained them."""
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

    def targets(self, batch: Dataset) -> Tensor:
        """The labels: int64 [B]."""
        return torch.from_numpy(batch.labels)

    def message(
        self, device: int, round: int, step: int, hidden: Tensor, mask: Tensor | None, goal: Tensor
    ) -> ActivationsMessage:
        """See Task. A label takes as many bits as tell the classes apart."""
        return ActivationsMessage(device, round, step, hidden, mask, goal, self.classes)

    def received(self, message: ActivationsMessage) -> Tensor:
        """See Task."""
        if message.num_classes != self.classes:
            raise FrameError(
                f"frame: device {message.device} sent labels of {message.num_classes} classes, not "
                f"of {self.classes}: run the same job on both sides"
            )
        return message.labels

    def losses(self, outputs: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """See Task. outputs: logits [B, C]; the loss is the cross-entropy."""
        weight = outputs.new_tensor(self.weights) if self.weights else None
        parts = torch.split(outputs, [len(rows) for rows in targets])
        return torch.stack(
            [
                F.cross_entropy(part, rows.to(part.device), weight, label_smoothing=self.smoothing)
                for part, rows in zip(parts, targets, strict=True)
            ]
        )

    def score(self, outputs: Tensor, targets: Tensor) -> Score:
        """See Task. Predicted is the class of the largest logit; no smoothing, no weights."""
        logits = outputs.float().cpu()
        loss = F.cross_entropy(logits, targets, reduction="sum").item()
        return Score(loss, logits.argmax(1).numpy())

    def export(
        self, adapter: Adapter, model: CutModel, folder: Path, classes: Sequence[str]
    ) -> None:
        """See Task. In PEFT's format, or as a whole checkpoint where every weight trained."""
        save_adapter(adapter, model, folder, classes)


def task_of(job: Job, classes: int) -> Task:
    """The task of a job on data of so many classes. Raises JobError."""
    training = job.training
    if training.class_weights and len(training.class_weights) != classes:
        raise JobError(
            f"training.class_weights: {len(training.class_weights)} numbers for data of {classes} "
            "classes: give one a class, or none"
        )
    return Classification(classes, training.label_smoothing, training.class_weights)
