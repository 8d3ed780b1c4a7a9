"""How many devices share a pass through the backbone: as many as asked for, or as memory holds."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cutlayer.errors import RunError
from cutlayer.job import Job
from cutlayer.model.cost import memory_bytes, whole_cost
from cutlayer.model.cut import CutModel
from cutlayer.model.spec import ModelSpec
from cutlayer.train.cohort import is_one_by_one, pool_of

_SHARE = 0.7
"""Share of a GPU's free memory that pools may fill: estimates are rough, and matrix products need
memory too."""


def pool_size(job: Job, model: CutModel) -> int:
    """Devices in a pass on the model's torch device."""
    if is_one_by_one(job) or job.training.pool is not None or model.compute.type != "cuda":
        return pool_of(job)
    return devices_that_fit(job, model.spec, free_bytes(model.compute))


def free_bytes(device: torch.device) -> int:
    """Bytes of a GPU's memory that are not in use; memory that torch keeps in its cache is free."""
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + kept


def devices_that_fit(job: Job, spec: ModelSpec, free: int) -> int:
    """How many devices' batches fit into `free` bytes beside the model; at least one."""
    cost = whole_cost(spec, job.method.train)
    own = memory_bytes(cost, spec, job.training.batch_size) - cost.parameter_bytes
    return max(1, int(_SHARE * free / own))


@contextmanager
def naming_what_fits(job: Job, model: CutModel, devices: int) -> Iterator[None]:
    """Raise RunError, which names training.pool, where a pass of `devices` exceeds the memory."""
    try:
        yield
    except RuntimeError as fault:
        if not _is_out_of_memory(fault):
            raise
        batch, place = job.training.batch_size, model.compute
        if devices == 1:
            raise RunError(
                f"training.batch_size: one device's batch of {batch} samples takes more memory "
                f"than {place} has: take {max(1, batch // 2)}"
            ) from None
        fit = devices // 2
        if place.type == "cuda":
            fit = min(fit, devices_that_fit(job, model.spec, free_bytes(place)))
        raise RunError(
            f"training.pool: the batches of {devices} devices in one pass take more memory than "
            f"{place} has: take {fit}"
        ) from None


def _is_out_of_memory(fault: RuntimeError) -> bool:
    """Whether a fault means that memory is used up; a CPU's allocator says so only in its text."""
    return isinstance(fault, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(fault)
