"""The names of what lies in a run folder."""

JOB_FILE, STATE_FILE, ADAPTER_FOLDER = "job.yaml", "state.safetensors", "adapter"
ROSTER_FILE, CODE_FILE, STATES_FOLDER = "fleet.json", "code.json", "states"
DEVICES_FILE = "devices.json"
DATA_FILE = "data.json"
"""What data a run was given: samples, classes in their order, and what was left out."""
