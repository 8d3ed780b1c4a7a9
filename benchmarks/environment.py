"""Where and with what a figure was measured, and by which command, as reports say it."""

import datetime
import os
import platform
import shlex
import sys
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


PLACES = {"--model": "DINOV2", "--data": "CIFAR10", "--texts": "R8.YAML", "--runs": "DIR"}
"""What stands in a printed command for folders of this machine."""


def command() -> str:
    """The command by which this process was started, as it makes report and figures elsewhere."""
    words = sys.argv[1:]
    given = [
        PLACES.get(before, word)
        for before, word in zip(["", *words], words, strict=False)
        if word != "--only-report"
    ]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *given])


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
