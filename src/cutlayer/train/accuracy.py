"""What a test says of a model: accuracy, class by class too, F1, and which classes are confused;
of a language model its perplexity.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cutlayer.data.dataset import Indices

_LARGEST_EXPONENT = 700
"""exp of more is beyond the range of a float."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model tested on n samples.

    loss: mean cross-entropy. labels, predicted: the true and the predicted class of each [n].
    classes: C, how many there are.
    """

    loss: float
    labels: Indices
    predicted: Indices
    classes: int

    @property
    def samples(self) -> int:
        """How many samples were tested on."""
        return len(self.labels)

    @property
    def accuracy(self) -> float:
        """Share of the samples whose class was predicted."""
        return float((self.labels == self.predicted).mean())

    @property
    def perplexity(self) -> None:
        """Only language models have one."""
        return None

    @property
    def by_class(self) -> list[float | None]:
        """Of the samples of each class the share that was predicted [C] (its recall); None where
        the test set has none of the class.
        """
        count, right = self._count(self.labels), self._count(self._right)
        return [float(hits / n) if n else None for hits, n in zip(right, count, strict=True)]

    @property
    def macro_f1(self) -> float:
        """Mean over classes of F1 = 2 TP / (2 TP + FP + FN); classes that are neither among the
        labels nor among the predictions are left out.
        """
        both = self._count(self.labels) + self._count(self.predicted)
        there = both > 0
        return float((2 * self._count(self._right)[there] / both[there]).mean())

    @property
    def confusion(self) -> list[list[int]]:
        """[true class, predicted class, samples] of each pair that occurs, in order."""
        pairs, counts = np.unique(
            np.stack([self.labels, self.predicted]), axis=1, return_counts=True
        )
        return [
            [*pair, count] for pair, count in zip(pairs.T.tolist(), counts.tolist(), strict=True)
        ]

    def on_mix(self, counts: np.ndarray) -> float:
        """Accuracy expected under another mix of labels. counts [C]: samples of each class."""
        accuracy = np.array([value or 0.0 for value in self.by_class])
        return float(np.dot(counts / counts.sum(), accuracy))

    def part(self, first: int, last: int) -> float | None:
        """Accuracy on samples first ... last - 1; None for no sample."""
        hits = self.labels[first:last] == self.predicted[first:last]
        return float(hits.mean()) if len(hits) else None

    @property
    def _right(self) -> Indices:
        right: Indices = self.labels[self.labels == self.predicted]
        return right

    def _count(self, found: Indices) -> Indices:
        counts: Indices = np.bincount(found, minlength=self.classes)
        return counts


@dataclass(frozen=True, eq=False)
class TokenEvaluation:
    """A language model tested on n samples.

    losses, right, count: of each sample [n], the cross-entropy of its tokens together, how many
    were told, and how many were to be told. labels: the class of each sample [n], of `classes`
    that the data may have.
    """

    losses: np.ndarray
    right: np.ndarray
    count: np.ndarray
    labels: Indices
    classes: int

    @property
    def samples(self) -> int:
        """How many samples were tested on."""
        return len(self.labels)

    @property
    def loss(self) -> float:
        """Mean cross-entropy per token."""
        return float(self.losses.sum() / max(1, self.count.sum()))

    @property
    def perplexity(self) -> float | None:
        """exp(loss); None where that is beyond the range of a float."""
        return math.exp(self.loss) if self.loss < _LARGEST_EXPONENT else None

    @property
    def accuracy(self) -> float:
        """Share of the tokens that were told."""
        return float(self.right.sum() / max(1, self.count.sum()))

    @property
    def by_class(self) -> list[float | None]:
        """`accuracy` on the samples of each class [C]; None where the test set has none."""
        right = np.bincount(self.labels, self.right, self.classes)
        count = np.bincount(self.labels, self.count, self.classes)
        return [float(hits / n) if n else None for hits, n in zip(right, count, strict=True)]

    @property
    def macro_f1(self) -> None:
        """There is none: tokens are no classes."""
        return None

    @property
    def confusion(self) -> list[list[int]]:
        """None of the classes is told, so none is taken for another."""
        return []

    def on_mix(self, counts: np.ndarray) -> float:
        """Accuracy expected under another mix of labels. counts [C]: samples of each class."""
        accuracy = np.array([value or 0.0 for value in self.by_class])
        return float(np.dot(counts / counts.sum(), accuracy))

    def part(self, first: int, last: int) -> float | None:
        """Accuracy on samples first ... last - 1; None for no sample."""
        count = self.count[first:last].sum()
        return float(self.right[first:last].sum() / count) if count else None


Tested = Evaluation | TokenEvaluation


def joined(several: Sequence[Tested]) -> Tested:
    """Evaluations of several models on one test set as one of all that they said."""
    labels = np.concatenate([one.labels for one in several])
    classes = several[0].classes
    tokens = [one for one in several if isinstance(one, TokenEvaluation)]
    if tokens:
        losses, right, count = (
            np.concatenate([getattr(one, name) for one in tokens])
            for name in ("losses", "right", "count")
        )
        return TokenEvaluation(losses, right, count, labels, classes)
    predicted = [one.predicted for one in several if isinstance(one, Evaluation)]
    loss = float(np.mean([one.loss for one in several]))
    return Evaluation(loss, labels, np.concatenate(predicted), classes)
