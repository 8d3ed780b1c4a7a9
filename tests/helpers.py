"""Small jobs and comparisons that several tests use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cutlayer import Result
from cutlayer.job import Job, change_job, make_job
from cutlayer.model.lora import Adapter

Simulated = Callable[[Job], Result]
"""The fixture `simulated` of conftest.py: the run of a job, made once for all who ask."""


def small_job(*settings: str, method: str = "sflora", **sections: Any) -> Job:
    """Four devices, a few images of the demo and two rounds: seconds of training."""
    job = make_job(
        {
            "data": {"train_samples": 64, "test_samples": 20, "partition": {"min_samples": 8}},
            "devices": {"count": 4},
            "training": {"rounds": 2, "batch_size": 8, "pool": 1},
            "method": method,
            **sections,
        }
    )
    return change_job(job, settings)


def language_job(
    model: Path, table: Path, *changes: str, method: str = "sflora", rounds: int = 2
) -> Job:
    """Two devices that fine-tune a tiny language model on the pairs of a table."""
    job = make_job(
        {
            "data": {"source": "table", "path": str(table), "partition": {"min_samples": 4}},
            "model": {"path": str(model), "cut": 1, "max_tokens": 40},
            "devices": {"count": 2},
            "training": {"rounds": rounds, "batch_size": 4, "lr": 0.01},
            "method": method,
        }
    )
    return change_job(job, changes)


def largest_difference(one: Adapter, other: Adapter) -> float:
    """Of two adapters with the same names."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def moved(before: Adapter, after: Adapter) -> float:
    """How far the largest value of an adapter moved."""
    return largest_difference({k: v.detach() for k, v in before.items()}, after)


def equal(one: Adapter, other: Adapter) -> bool:
    """Whether two adapters agree bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
