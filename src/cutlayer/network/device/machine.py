"""Describes the machine of a device to the server when it joins, on Linux, macOS and Windows."""

import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

_SIDE = 384
_MEASURE_S = 0.2


@dataclass(frozen=True)
class Machine:
    """The processor's name, the cores that this process may use, memory, and measured FLOP/s."""

    processor: str
    cores: int
    memory_bytes: int
    flops_per_s: float


def describe_machine() -> Machine:
    """Describe this machine; takes a fifth of a second."""
    memory = psutil.virtual_memory().total
    return Machine(_processor()[:200], usable_cores(), memory, _flops_per_s())


def usable_cores() -> int:
    """How many cores this process may use; all cores if the system does not say (macOS)."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        return len(process.cpu_affinity() or [0])
    return psutil.cpu_count() or 1


def _flops_per_s() -> float:
    """FLOP/s of multiplying float32 matrices: the best of as many tries as fit in a short time."""
    a = np.random.default_rng(0).random((_SIDE, _SIDE), np.float32)
    found = np.empty_like(a)
    best_s, end = float("inf"), time.perf_counter() + _MEASURE_S
    with np.errstate(all="ignore"):  # on ARM some libraries raise flags for sound products
        while (start := time.perf_counter()) < end:
            np.matmul(a, a, out=found)
            best_s = min(best_s, time.perf_counter() - start)
    return 2 * _SIDE**3 / best_s


def _processor() -> str:
    """The processor's name: from a file on Linux, elsewhere from Python."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"
