"""Measures the memory of a program on this device and its time for a batch."""

import time

import numpy as np

from cutlayer.light.batch_cost import BatchCost, peak_bytes
from cutlayer.light.device import LightDevice
from cutlayer.light.program import Program

_BATCHES = 5


def measure(device: LightDevice, program: Program) -> BatchCost:
    """Run a batch of the device's own samples through a program that gives activations."""
    count = min(device.job.batch_size, len(device.samples.labels))
    given = device.ready(np.arange(count))
    best_s = float("inf")
    for _ in range(_BATCHES):
        start = time.perf_counter()
        program.run(given)
        best_s = min(best_s, time.perf_counter() - start)
    return BatchCost(best_s, count, peak_bytes())
