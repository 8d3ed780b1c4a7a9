"""The names of what lies in a run folder."""

JOB_FILE, STATE_FILE, ADAPTER_FOLDER = "job.yaml", "state.safetensors", "adapter"
ROSTER_FILE, CODE_FILE, STATES_FOLDER = "fleet.json", "code.json", "states"
SENT_FILE = "sent-samples.bin"
DEVICES_FILE = "devices.json"
DATA_FILE = "data.json"
"""What data a run was given: samples, classes in their order, and what was left out."""

LABELS_FILE = "comparison.json"
"""In a comparison's folder: the label of each run folder in it."""


def device_folder(device: int) -> str:
    """Below the adapter folder, where an adapter lies that one device keeps for itself."""
    return f"device-{device:04d}"
