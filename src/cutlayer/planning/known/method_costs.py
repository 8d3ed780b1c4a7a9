"""FLOPs and memory that a method takes on a device and on the server, by the cost model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import mean

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.model.cost import (
    Cost,
    device_cost,
    memory_bytes,
    server_cost,
    tail_cost,
    whole_cost,
)
from cutlayer.model.families import ModelSpec
from cutlayer.record.rows import Row
from cutlayer.settings.training import Training


@lru_cache(maxsize=1024)
def device_part(job: Job, spec: ModelSpec, cut: int) -> Cost:
    """What runs on a device: the blocks before the cut, or the whole model without a split.

    If the job has a tail, the device's last blocks are not counted here but in `tail_part`.
    """
    return _as_trained(job, _device_part(job, spec, cut))


def _device_part(job: Job, spec: ModelSpec, cut: int) -> Cost:
    method = job.method
    if not method.split:
        return whole_cost(spec, method.train)
    if method.device == "frozen":
        return device_cost(_frozen(spec, cut), cut, method.train)
    return device_cost(spec, cut, method.train)


def _as_trained(job: Job, part: Cost) -> Cost:
    """The cost of a part as the job's training computes it."""
    return part.checkpointed() if job.training.checkpointing else part


@lru_cache(maxsize=1024)
def server_part(job: Job, spec: ModelSpec, cut: int, tokens: int | None) -> Cost | None:
    """What runs on the server for a device that keeps `tokens` tokens (None: all).

    None if nothing runs on the server.
    """
    method = job.method
    if method.pooled:
        return _as_trained(job, whole_cost(spec, method.train))
    if not method.split:
        return None
    spec = _frozen(spec, cut) if method.device == "frozen" else spec
    sent = tokens_sent(job, spec, cut, tokens)
    return _as_trained(job, server_cost(spec, cut, sent, method.train))


@lru_cache(maxsize=1024)
def tail_part(job: Job, spec: ModelSpec, cut: int, tokens: int | None) -> Cost | None:
    """The last blocks on a device that keeps `tokens` (None: all); None where there is no tail."""
    part = _tail_part(job, spec, cut, tokens)
    return None if part is None else _as_trained(job, part)


def _tail_part(job: Job, spec: ModelSpec, cut: int, tokens: int | None) -> Cost | None:
    if not job.has_tail:
        return None
    return tail_cost(replace(spec, cut=cut), tokens_sent(job, spec, cut, tokens), job.method.train)


def _frozen(spec: ModelSpec, cut: int) -> ModelSpec:
    """The same model with nothing to train before the cut."""
    return replace(spec, cut=cut, lora=spec.lora.model_copy(update={"side": "server"}))


def tokens_sent(job: Job, spec: ModelSpec, cut: int, tokens: int | None) -> int:
    """Tokens of a sample that cross the cut when `tokens` are kept, prefix and merged included."""
    every = spec.tokens_at(cut)
    if tokens is None or tokens >= every - spec.prefix:
        return every
    return spec.prefix + tokens + (job.method.tokens.rest == "merge")


def flops(cost: Cost | None) -> int:
    """FLOPs for one sample, both passes."""
    return cost.forward_flops + cost.backward_flops if cost else 0


def generated_flops(job: Job, spec: ModelSpec, decisions: Mapping[int, Decision]) -> int:
    """FLOPs of the server's training on one generated sample, all epochs of a round together.

    Counts both parts of the model, cut at the earliest of the round's cuts, but not the drawing of
    the sample.
    """
    cut = min(one.cut for one in decisions.values())
    parts = [
        device_part(job, spec, cut), server_part(job, spec, cut, None),
        tail_part(job, spec, cut, None),
    ]  # fmt: skip
    return job.training.local_epochs * sum(map(flops, parts))


def device_memory_bytes(job: Job, spec: ModelSpec, cut: int) -> int:
    """Bytes of memory that a device needs at its peak."""
    part, tail = _device_part(job, spec, cut), _tail_part(job, spec, cut, None)
    part = _as_trained(job, part if tail is None else part + tail)
    return memory_bytes(part, spec, job.training.batch_size, _states(job.training))


@dataclass(frozen=True)
class RoundCosts:
    """Memory of a device at its peak, and FLOPs in a mean round.

    None for a party that the method does not have.
    """

    device_memory_bytes: int | None
    device_flops: float | None
    server_flops: float | None


def round_costs(job: Job, spec: ModelSpec, rows: Sequence[Row]) -> RoundCosts:
    """FLOPs of one device (mean over the cohort) and of the server (for the whole cohort).

    Memory is that of the device that needs most. Raises ValueError without rows.
    """
    memory = 0
    on_device, on_server, devices = [], [], 0
    for row in rows:
        device = server = 0.0
        trained = row.shape(job.training).samples_trained
        for number, decision in row.decisions.items():
            samples = trained.get(number, 0)
            tail = tail_part(job, spec, decision.cut, decision.tokens)
            device += samples * (flops(device_part(job, spec, decision.cut)) + flops(tail))
            server += samples * flops(server_part(job, spec, decision.cut, decision.tokens))
            memory = max(memory, device_memory_bytes(job, spec, decision.cut))
        if row.generated:
            server += sum(row.generated) * generated_flops(job, spec, row.decisions)
        on_device.append(device)
        on_server.append(server)
        devices += len(row.decisions)
    if job.method.pooled:
        return RoundCosts(None, None, mean(on_server))
    each = sum(on_device) / max(devices, 1)
    serves = job.method.split or any(sum(row.generated or ()) for row in rows)
    return RoundCosts(memory, each, mean(on_server) if serves else None)


def _states(training: Training) -> int:
    """How many numbers the optimiser keeps for each trained number."""
    return 2 if training.optimizer == "adamw" else int(training.momentum > 0)
