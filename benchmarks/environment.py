"""Where and with what a figure was measured, and by which command, as reports say it."""

import datetime
import os
import platform
import shlex
import sys
from collections.abc import Mapping
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
"""What stands in a printed command after these options, for folders of this machine."""


def command(script: str, places: Mapping[str, str] = PLACES) -> str:
    """The command by which this process was started, as it is to be given elsewhere.

    script: its path in the repository. places: what stands for the word after an option; every
    other path of this machine stands with its last name alone.
    """
    given = []
    for before, word in zip(["", *sys.argv[1:]], sys.argv[1:], strict=False):
        option, equals, value = word.partition("=")
        if not word.startswith("--"):
            word = places.get(before) or placed(word)
        elif equals:
            word = f"{option}={places.get(option) or placed(value)}"
        if word != "--only-report":
            given.append(word)
    return shlex.join(["python", script, *given])


def placed(word: str) -> str:
    """A word, or NAME=PATH, with a path of this machine by its last name alone."""
    name, equals, path = word.rpartition("=")
    there = os.sep in path and Path(path).exists()
    return name + equals + (Path(path).name if there else path)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
