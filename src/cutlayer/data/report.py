"""What was loaded: how many samples and classes, from where, and what was left out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LoadReport:
    """One load, for people (`line`) and for the run folder (`record`).

    train, test: where the samples came from; train_samples, test_samples: how many were taken.
    order: by what rule the classes are numbered. notes: what was skipped or changed, and why.
    stored_bytes: of the files that the training images are in; None where these are no such files.
    """

    train: str
    train_samples: int
    classes: tuple[str, ...]
    order: str
    test: str | None = None
    test_samples: int = 0
    notes: tuple[str, ...] = ()
    stored_bytes: int | None = None

    @property
    def line(self) -> str:
        """The load in one line."""
        classes = f" of {len(self.classes)} classes (ordered {self.order})"
        if len(self.classes) == 1:
            classes = ""
        found = f"data: {self.train_samples} samples{classes} from {self.train}"
        if self.test is not None:
            found += f"; tested on {self.test_samples} from {self.test}"
        return "; ".join([found, *self.notes])

    def record(self) -> dict[str, Any]:
        """The load as plain values, and its line."""
        return {"line": self.line, **asdict(self)}
