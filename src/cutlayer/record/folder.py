"""The names of what lies in a run folder, and a new folder's own name."""

import datetime
from pathlib import Path

JOB_FILE, STATE_FILE, ADAPTER_FOLDER = "job.yaml", "state.safetensors", "adapter"
ROSTER_FILE, CODE_FILE, STATES_FOLDER = "fleet.json", "code.json", "states"
SENT_FILE = "sent-samples.bin"
DATA_FILE = "data.json"
"""What data a run was given: samples, classes in their order, and what was left out."""


def new_folder(name: str) -> Path:
    """A folder below runs/ named by the time and `name`, not yet made."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{stamp}-{name.replace(':', '.')}"
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder
