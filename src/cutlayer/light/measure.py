"""Measures the memory of a program on this device and its time for a batch."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from cutlayer.light.device import LightDevice
from cutlayer.light.program import Program

_BATCHES = 5


@dataclass(frozen=True)
class Measured:
    """batch_s: seconds of the fastest batch; samples: in the batch; peak_bytes: the most memory of
    the process."""

    batch_s: float
    samples: int
    peak_bytes: int

    @property
    def line(self) -> str:
        """The result in one line."""
        rate, peak = self.samples / self.batch_s, self.peak_bytes / 1e6
        return (
            f"probe: {1000 * self.batch_s:.0f} ms for a batch of {self.samples}, {rate:.0f} "
            f"samples a second; {peak:.0f} MB of memory at the peak"
        )


def measure(device: LightDevice, program: Program) -> Measured:
    """Run a batch of the device's own samples through a program that gives activations."""
    count = min(device.job.batch_size, len(device.samples.labels))
    given = device.ready(np.arange(count))
    best_s = float("inf")
    for _ in range(_BATCHES):
        start = time.perf_counter()
        program.run(given)
        best_s = min(best_s, time.perf_counter() - start)
    return Measured(best_s, count, peak_bytes())


def peak_bytes() -> int:
    """The most bytes of memory that this process has had resident."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":
        # getrusage would also count the process that started this one.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
