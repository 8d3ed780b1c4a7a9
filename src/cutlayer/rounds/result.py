"""What a run leaves behind: its folder, and what it measured."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cutlayer.drawing.notebook import data_frame, paragraphs, table_html
from cutlayer.drawing.tables import Column
from cutlayer.errors import RunError
from cutlayer.job import Job
from cutlayer.model.lora import Adapter
from cutlayer.record.folder import ADAPTER_FOLDER, STATES_FOLDER
from cutlayer.record.rows import Row
from cutlayer.record.tabular import by_device, by_round
from cutlayer.rounds.run_stages import run_stages

if TYPE_CHECKING:
    import pandas as pd

SHOWN = (
    Column("round", "round", "count"),
    Column("loss", "loss"),
    Column("accuracy", "accuracy", "percent"),
    Column("up_bytes", "up", "bytes"),
    Column("down_bytes", "down", "bytes"),
    Column("virtual_s", "in its world", "seconds"),
)
"""The columns that a notebook shows of a run."""

LAST = 5
"""So many of its rounds, the last ones."""


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run: where it lies and what it measured.

    folder: of the run. job: what was run. rows: what was measured, by round. adapter: the global
    adapter at the end, by name.
    A notebook shows it as a sentence and a table of its last rounds. classes: of the held-out set,
    or as many as a language model has tokens. tests: its samples.
    """

    folder: Path
    job: Job
    rows: list[Row]
    adapter: Adapter
    classes: int
    tests: int

    def __repr__(self) -> str:
        return f"<Result of {self.sentence}>"

    def _repr_html_(self) -> str:
        rounds = by_round(self.rows)[-LAST:]
        known = [c for c in SHOWN if any(one[c.key] is not None for one in rounds)]
        return paragraphs([self.sentence]) + table_html(rounds, known, "the last rounds")

    @property
    def sentence(self) -> str:
        """What was run and what came out, for people."""
        return (
            f"{self.job.method.name}, {len(self.rows)} rounds of {self.job.devices.cohort} "
            f"devices: accuracy {self.accuracy_said}, {self.up_bytes / 1e6:.1f} MB up, "
            f"{self.down_bytes / 1e6:.1f} MB down; in {self.folder}"
        )

    def to_pandas(self, what: Literal["rounds", "devices", "stages"] = "rounds") -> "pd.DataFrame":
        """A row for each round, for each turn of a device, or for each bar of the Gantt chart.

        what: which of the three.
        rounds, devices: columns and units of `by_round` and `by_device` in cutlayer.record.tabular,
        devices with what was decided for each. stages: round, device, stage, step, and its start
        and end in seconds since the round began (`run_stages` in cutlayer.rounds.run_stages), of a
        simulation in a world. Raises RunError for anything else, for stages of a run that has none,
        and where pandas is not installed.
        """
        if what == "rounds":
            return data_frame(by_round(self.rows))
        if what == "devices":
            return data_frame(by_device(self.rows))
        if what != "stages":
            raise RunError(
                f"to_pandas: {what!r} is no table of a run: take 'rounds', 'devices' or 'stages'"
            )
        return data_frame(run_stages(self.job, self.rows))

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
