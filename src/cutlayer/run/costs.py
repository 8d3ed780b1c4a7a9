"""What a method asks of a device and of the server, by the cost model."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from cutlayer.job import Job, Training
from cutlayer.model.cost import Cost, device_cost, memory_bytes, server_cost, whole_cost
from cutlayer.model.families import ModelSpec
from cutlayer.report.record import Row


@dataclass(frozen=True)
class RoundCosts:
    """Memory of a device at its peak, and FLOPs in a mean round (None: there is no such party)."""

    device_memory_bytes: int | None
    device_flops: float | None
    server_flops: float | None


def round_costs(job: Job, spec: ModelSpec, rows: Sequence[Row]) -> RoundCosts:
    """Costs of one device, the mean of a cohort, and of the server for all of a cohort."""
    method, cut = job.method, job.model.cut
    samples = mean(row.samples for row in rows)
    each = mean(row.samples / len(row.cohort) for row in rows)
    if method.pooled:
        return RoundCosts(None, None, samples * _flops(whole_cost(spec)))
    device = device_cost(spec, cut) if method.split else whole_cost(spec)
    memory = memory_bytes(device, spec, job.training.batch_size, _states(job.training))
    if not method.split:
        return RoundCosts(memory, each * _flops(device), None)
    server = server_cost(spec, cut, tokens_sent(job, spec))
    return RoundCosts(memory, each * _flops(device), samples * _flops(server))


def _flops(cost: Cost) -> int:
    return cost.forward_flops + cost.backward_flops


def _states(training: Training) -> int:
    """Numbers an optimiser keeps for each trained one."""
    return 2 if training.optimizer == "adamw" else int(training.momentum > 0)


def tokens_sent(job: Job, spec: ModelSpec) -> int:
    """Tokens of a sample that cross the cut, prefix and merged token included."""
    tokens = job.method.tokens
    if tokens.keep is None or tokens.keep >= spec.patches:
        return spec.tokens
    return spec.prefix + tokens.keep + (tokens.rest == "merge")
