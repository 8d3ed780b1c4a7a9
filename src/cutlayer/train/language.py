"""The task of language models: after each token, say the next."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cutlayer.data.dataset import Dataset
from cutlayer.errors import FrameError
from cutlayer.model.cut import CutModel
from cutlayer.model.export import save_adapter
from cutlayer.model.lora import Adapter
from cutlayer.train.accuracy import TokenEvaluation
from cutlayer.train.device_sums import device_sums
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.transfer import to_device

NONE = -100
"""The target of a token after which no token is to be predicted."""

_HELD_LOGITS = 2**26


@dataclass(frozen=True, eq=False)
class Language:
    """Next-token prediction; see train.task.Task. T tokens, V of the vocabulary.

    max_tokens: the longest text. loss_on: see settings.Training.
    """

    vocabulary: int
    max_tokens: int
    loss_on: Literal["answers", "all"] = "answers"
    smoothing: float = 0.0

    @property
    def test_batch(self) -> int:
        """As many samples as a quarter of a gigabyte of logits holds."""
        return max(1, min(128, _HELD_LOGITS // (self.max_tokens * self.vocabulary)))

    def targets(self, batch: Dataset, inputs: Mapping[str, Tensor]) -> Tensor:
        """The token after each token, int64 [B,T]; NONE where it is not to be predicted."""
        wanted = inputs["answers" if self.loss_on == "answers" else "attention_mask"].cpu()
        following = inputs["input_ids"].cpu()[:, 1:].masked_fill(wanted[:, 1:] == 0, NONE)
        return F.pad(following, (0, 1), value=NONE)

    def message(
        self, device: int, round: int, step: int, hidden: Tensor, mask: Tensor | None, goal: Tensor
    ) -> ActivationsMessage:
        """See Task. A target has enough bits for any token of the vocabulary, or for none."""
        sent = torch.where(goal == NONE, self.vocabulary, goal)
        return ActivationsMessage(device, round, step, hidden, mask, sent, self.vocabulary + 1)

    def received(self, message: ActivationsMessage) -> Tensor:
        """See Task."""
        if message.num_classes != self.vocabulary + 1 or message.labels.dim() != 2:
            raise FrameError(
                f"frame: device {message.device} sent targets that are not tokens of a vocabulary "
                f"of {self.vocabulary}: run the same job on both sides"
            )
        labels = message.labels.masked_fill(message.labels == self.vocabulary, NONE)
        return labels if message.mask is None else labels.masked_fill(~message.mask.cpu(), NONE)

    def learnt(self, targets: Sequence[Tensor]) -> Tensor:
        """See Task."""
        return torch.cat(list(targets)) != NONE

    def losses(self, outputs: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """[M]: the mean cross-entropy over the tokens of each device. outputs: [n,V]."""
        place, goal = outputs.device, torch.cat(list(targets))
        goal = to_device(goal[goal != NONE], place)
        each = F.cross_entropy(outputs, goal, reduction="none", label_smoothing=self.smoothing)
        counts = [self.weight(rows) for rows in targets]
        means = to_device(torch.tensor([max(1, count) for count in counts]), place)
        return device_sums(each, counts) / means

    def weight(self, targets: Tensor) -> int:
        """The number of tokens that were to be predicted."""
        return int((targets != NONE).sum())

    def evaluation(
        self, outputs: Iterable[tuple[Tensor, Tensor]], data: Dataset
    ) -> TokenEvaluation:
        """Loss and hits of each sample's tokens, without smoothing."""
        losses, right, count = [], [], []
        for logits, targets in outputs:
            wanted = targets != NONE
            found = logits[wanted.to(logits.device)].float().cpu()
            goal = targets[wanted]
            owner = wanted.nonzero()[:, 0].numpy()
            rows = len(targets)
            each = F.cross_entropy(found, goal, reduction="none").double().numpy()
            hits = (found.argmax(1) == goal).numpy()
            losses.append(np.bincount(owner, each, rows))
            right.append(np.bincount(owner[hits], minlength=rows))
            count.append(np.bincount(owner, minlength=rows))
        return TokenEvaluation(
            np.concatenate(losses),
            np.concatenate(right),
            np.concatenate(count),
            data.labels,
            len(data.classes),
        )

    def export(
        self, adapter: Adapter, model: CutModel, folder: Path, classes: Sequence[str]
    ) -> None:
        """See Task. In PEFT's format; classes: of the data, by which devices may differ."""
        save_adapter(adapter, model, folder, classes)
