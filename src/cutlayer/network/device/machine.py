"""What a device is and can do, as it tells the server when it joins."""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch

_SIDE = 384
_MEASURE_S = 0.2


@dataclass(frozen=True)
class Machine:
    """A processor by name, the cores this process may use, memory, and a measured FLOP/s."""

    processor: str
    cores: int
    memory_bytes: int
    flops_per_s: float


def describe_machine() -> Machine:
    """This machine; takes a fifth of a second."""
    return Machine(_processor()[:200], len(os.sched_getaffinity(0)), _memory(), _flops_per_s())


def _flops_per_s() -> float:
    """Of multiplying float32 matrices: the best of as many tries as fit in a short time."""
    a, b = torch.rand(_SIDE, _SIDE), torch.rand(_SIDE, _SIDE)
    best_s, end = float("inf"), time.perf_counter() + _MEASURE_S
    while (start := time.perf_counter()) < end:
        torch.mm(a, b)
        best_s = min(best_s, time.perf_counter() - start)
    return 2 * _SIDE**3 / best_s


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
