"""What a device measured of itself, light or not: the time of a batch, and memory."""

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class BatchCost:
    """Seconds of the fastest batch, its samples, and the process's memory at its peak.

    gpu_bytes: the most of a GPU's memory that was taken; None where none computed.
    """

    batch_s: float
    samples: int
    peak_bytes: int
    gpu_bytes: int | None = None

    @property
    def line(self) -> str:
        """The result in one line."""
        rate, peak = self.samples / self.batch_s, self.peak_bytes / 1e6
        return (
            f"probe: {1000 * self.batch_s:.0f} ms for a batch of {self.samples}, {rate:.0f} "
            f"samples a second; {peak:.0f} MB of memory at the peak{self._gpu}"
        )

    @property
    def _gpu(self) -> str:
        return "" if self.gpu_bytes is None else f", {self.gpu_bytes / 1e6:.0f} MB on the GPU"


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":
        # getrusage would count what the process was that started this one.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
