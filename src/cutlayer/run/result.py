"""What a run leaves behind: its folder, and what it measured."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cutlayer.job import Job
from cutlayer.model.lora import Adapter
from cutlayer.report.record import Row

JOB_FILE, STATE_FILE, ADAPTER_FOLDER = "job.yaml", "state.safetensors", "adapter"
ROSTER_FILE = "fleet.json"


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


def new_folder(name: str) -> Path:
    """A folder below runs/ named by the time and `name`, not yet made."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{stamp}-{name.replace(':', '.')}"
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder
