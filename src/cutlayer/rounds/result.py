"""What a run leaves behind: its folder, and what it measured."""

from dataclasses import dataclass
from pathlib import Path

from cutlayer.job import Job
from cutlayer.model.lora import Adapter
from cutlayer.record.folder import ADAPTER_FOLDER
from cutlayer.record.rows import Row


@dataclass(frozen=True)
class Result:
    """A finished run: where it lies and what it measured."""

    folder: Path
    job: Job
    rows: list[Row]
    adapter: Adapter

    @property
    def accuracy(self) -> float:
        """Accuracy on the held-out set after the last round."""
        accuracy = self.rows[-1].accuracy
        assert accuracy is not None  # the last round is always evaluated
        return accuracy

    @property
    def test_samples(self) -> int:
        """How many samples of the held-out set the accuracy is of."""
        samples = self.rows[-1].test_samples
        assert samples is not None
        return samples

    @property
    def accuracy_said(self) -> str:
        """The accuracy and the size of the test set, for people."""
        return f"{100 * self.accuracy:.1f} % of {self.test_samples:,} test samples"

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
