"""What a run leaves behind: its folder, and what it measured."""

import math
from dataclasses import dataclass
from pathlib import Path

from cutlayer.job import Job
from cutlayer.model.lora import Adapter
from cutlayer.record.folder import ADAPTER_FOLDER, STATES_FOLDER
from cutlayer.record.rows import Row


@dataclass(frozen=True)
class Result:
    """A finished run: where it lies and what it measured.

    classes: of the held-out set, or as many as a language model has tokens. tests: its samples.
    """

    folder: Path
    job: Job
    rows: list[Row]
    adapter: Adapter
    classes: int
    tests: int

    @property
    def accuracy(self) -> float:
        """Accuracy on the held-out set after the last round."""
        accuracy = self.rows[-1].accuracy
        assert accuracy is not None  # the last round is always evaluated
        return accuracy

    @property
    def accuracy_said(self) -> str:
        """The accuracy and the size of the test set, for people; of language, of tokens."""
        if self.perplexity is None:
            return f"{100 * self.accuracy:.1f} % of {self.tests:,} test samples"
        return (
            f"{100 * self.accuracy:.1f} % of the tokens of {self.tests:,} test samples, perplexity "
            f"{self.perplexity:.2f}"
        )

    @property
    def perplexity(self) -> float | None:
        """On the held-out set after the last round; None but for language models."""
        return self.rows[-1].perplexity

    @property
    def worse(self) -> str:
        """A sentence where the run ended worse than it began; "" where it did not.

        It did if its accuracy is below that of its first evaluation by more than chance makes it
        (two standard errors of a test set of this size), or if it is no better than a guess while
        its loss is above that of a model that knows nothing, ln(classes).
        """
        first, last = self._evaluated[0], self._evaluated[-1]
        assert first.accuracy is not None
        assert last.accuracy is not None
        error = math.sqrt(max(first.accuracy * (1 - first.accuracy), 1e-9) / self.tests)
        chance = 1 / self.classes
        if last.accuracy < first.accuracy - 2 * error:
            return (
                f"the run ended worse than it began: accuracy {100 * first.accuracy:.1f} % after "
                f"round {first.round + 1}, {100 * last.accuracy:.1f} % after round "
                f"{last.round + 1}; earlier states are in {self.folder / STATES_FOLDER}"
            )
        luck = 2 * math.sqrt(chance * (1 - chance) / self.tests)
        loss = math.inf if last.test_loss is None else last.test_loss
        if last.accuracy <= chance + luck and loss > 2 * math.log(max(2, self.classes)):
            return (
                f"the run ended worse than it began: it guesses (accuracy "
                f"{100 * last.accuracy:.1f} % of {self.classes} classes) with a loss of "
                f"{loss:.3g}, where a model that knows nothing has {math.log(self.classes):.3g}: "
                "lower training.lr, or look at the data"
            )
        return ""

    @property
    def _evaluated(self) -> list[Row]:
        return [row for row in self.rows if row.accuracy is not None]

    @property
    def up_bytes(self) -> int:
        """Bytes from the devices to the server over the whole run."""
        return sum(row.up_bytes for row in self.rows)

    @property
    def down_bytes(self) -> int:
        """Bytes from the server to the devices over the whole run."""
        return sum(row.down_bytes for row in self.rows)

    @property
    def adapter_folder(self) -> Path:
        """The trained adapter in PEFT's format."""
        return self.folder / ADAPTER_FOLDER
