"""Where and with what a figure was measured: the line that stands in every report."""

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def describe() -> str:
    """Date, machine and versions."""
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("cutlayer", "torch", "transformers")
    )
    machine = f"{os.cpu_count()} cores of {_processor()}"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    return f"{datetime.date.today()}; {machine}; {packages}, Python {platform.python_version()}."


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
