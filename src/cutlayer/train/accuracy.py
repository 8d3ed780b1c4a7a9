"""Figures of a model on test data: accuracy (also by class), F1, which classes are confused, and
the perplexity of a language model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cutlayer.data.dataset import Indices

_LARGEST_EXPONENT = 700
"""The exp of a larger number is beyond the range of a float."""


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
        """The share of the samples of each class that was predicted right [C] (recall); None for a
        class that the test set lacks.
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

    losses: the sum of the cross-entropies of each sample's tokens [n]. right: how many tokens of
    each sample were predicted [n]. count: how many were to be predicted [n]. labels: the class of
    each sample [n]; classes: how many classes the data have.
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
        """Share of the tokens that were predicted."""
        return float(self.right.sum() / max(1, self.count.sum()))

    @property
    def by_class(self) -> list[float | None]:
        """`accuracy` on the samples of each class [C]; None where the test set has none."""
        right = np.bincount(self.labels, self.right, self.classes)
        count = np.bincount(self.labels, self.count, self.classes)
        return [float(hits / n) if n else None for hits, n in zip(right, count, strict=True)]

    @property
    def macro_f1(self) -> None:
        """None: a language model predicts tokens, not classes."""
        return None

    @property
    def confusion(self) -> list[list[int]]:
        """Empty: a language model predicts no classes."""
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
    """Evaluations of several models on one test set, joined into one over all their predictions."""
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
