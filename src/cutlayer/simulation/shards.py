"""Which rank trains which devices of a round, and what rank 0 is told of them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple
from itertools import chain
from typing import Any

from torch import Tensor

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.round_shape import Traffic
from cutlayer.job import Job
from cutlayer.model.families import ModelSpec
from cutlayer.model.lora import Adapter
from cutlayer.planning.known.method_costs import device_part, flops, server_part
from cutlayer.simulation.parcel import Parcel
from cutlayer.train.cohort import computed_alike
from cutlayer.train.result import RoundResult, Trained
from cutlayer.train.reuse import reuses
from cutlayer.train.ways import FEATURE_GRADIENTS, FEATURES, GRADIENTS


def why_one_chain(job: Job, spec: ModelSpec) -> str | None:
    """Why a round of a job's method cannot be trained in parts; None where it can."""
    method = job.method
    if method.pooled:
        return "one party holds all the data"
    if method.order == "sequential":
        return "devices take turns, each from the adapters of the last"
    if method.split and method.server_adapter == "in-turn":
        return "the one server adapter is moved by one device's batch after another's"
    if method.split and method.server_adapter == "shared":
        return "the one server adapter moves at every step, by all devices of it"
    if method.split and method.uplink.codec == "klt":
        return "the uplink's basis is fitted to what all devices of a round send"
    if GRADIENTS.is_fitted(job):
        return "the downlink's basis is fitted to the gradients of all devices of a round"
    if FEATURES.is_fitted(job) or FEATURE_GRADIENTS.is_fitted(job):
        return "what passes the tail has bases that are fitted to all devices of a round"
    if reuses(job, spec.modality):
        return "the server keeps in one place what all devices have sent (uplink.reuse)"
    if method.split and method.uplink.change:
        return "the server holds in one place what all devices have sent (uplink.change)"
    return None


def shard(
    job: Job,
    spec: ModelSpec,
    decisions: Mapping[int, Decision],
    samples: Mapping[int, int],
    ranks: int,
    pool: int,
) -> tuple[list[list[int]], list[int]]:
    """The devices of each rank, in the order of `decisions`, and all in the order they train.

    samples: of an epoch, by device. pool: devices in a pass on one rank (see train/pool_size.py);
    those that share one there share it here too, so that each one's training is the same to the
    last bit; only where there are fewer pools than ranks, pools are smaller. The costliest pool
    goes first, each to the rank with least to do.
    """
    most = min(pool, -(-len(decisions) // ranks))
    # As the loop takes them: see `_begin` in train/round.py and make_pools in train/cohort.py.
    order = sorted(decisions, key=lambda device: -samples[device])
    alike = defaultdict(list)
    for device in order:
        alike[computed_alike(decisions[device])].append(device)
    pools = [
        devices[start : start + most]
        for devices in alike.values()
        for start in range(0, len(devices), most)
    ]

    def cost(devices: Sequence[int]) -> int:
        return sum(samples[d] * _sample_cost(job, spec, decisions[d]) for d in devices)

    held: list[set[int]] = [set() for _ in range(ranks)]
    loads = [0] * ranks
    for together in sorted(pools, key=cost, reverse=True):
        least = loads.index(min(loads))
        held[least] |= set(together)
        loads[least] += cost(together)
    return [[d for d in decisions if d in mine] for mine in held], [*chain(*alike.values())]


def _sample_cost(job: Job, spec: ModelSpec, one: Decision) -> int:
    """FLOPs of a sample on both sides of the cut: they go by its tokens and blocks."""
    return flops(device_part(job, spec, one.cut)) + flops(
        server_part(job, spec, one.cut, one.tokens)
    )


def pack_shard(
    result: RoundResult, trained: Mapping[int, Trained], own: Mapping[int, Adapter]
) -> Parcel:
    """What a rank tells of the devices that it trained.

    own: of devices that send nothing up: the adapter that they keep, or what they are to sum up.
    """
    told: list[list[Any]] = []
    for device in result.decisions:
        came = trained.get(device)
        told.append(
            [
                device,
                came.weight if came else None,
                list(result.batches.get(device, ())),
                result.losses.get(device, []),
                astuple(result.traffic[device]),
                result.clipped_tokens.get(device, 0),
            ]
        )
    tensors: dict[str, Tensor] = {}
    for device, one in trained.items():
        for part, adapter in (("up", one.upload), ("after", one.after_cut)):
            tensors |= {f"{device}/{part}/{name}": t for name, t in adapter.items()}
    for device, adapter in own.items():
        tensors |= {f"{device}/own/{name}": t for name, t in adapter.items()}
    return Parcel(
        {"devices": told, "lost": result.lost, "cpu_seconds": result.cpu_seconds}, tensors
    )


def join_shards(
    result: RoundResult, answers: Iterable[Parcel], order: Sequence[int]
) -> tuple[dict[int, Trained], dict[int, Adapter]]:
    """Add what ranks tell to the round's result, in the order in which one rank would have.

    order: of all devices, as they train. Returns what came through, and what devices did not send
    up (`own` of `pack_shard`).
    """
    told: dict[int, list[Any]] = {}
    parts: dict[tuple[int, str], Adapter] = defaultdict(dict)
    for answer in answers:
        told |= {one[0]: one for one in answer.values["devices"]}
        result.lost += answer.values["lost"]
        result.cpu_seconds += answer.values["cpu_seconds"]
        for key, tensor in answer.tensors.items():
            owner, part, name = key.split("/", 2)
            parts[int(owner), part][name] = tensor
    for device in result.decisions:
        _, _, batches, _, traffic, clipped_tokens = told[device]
        result.traffic[device] = Traffic(*traffic)
        if batches:
            result.batches[device] = tuple(batches)
        if clipped_tokens:
            result.clipped_tokens[device] = clipped_tokens
    trained = {}
    for device in order:
        _, weight, _, losses, *_ = told[device]
        if losses:
            result.losses[device] = losses
        if weight is not None:
            trained[device] = Trained(weight, parts[device, "up"], parts[device, "after"])
    return trained, {device: one for (device, part), one in parts.items() if part == "own"}


def pack_decisions(decisions: Mapping[int, Decision]) -> list[dict[str, Any]]:
    """Decisions as values of a parcel."""
    return [{"device": device, **asdict(one)} for device, one in decisions.items()]


def read_decisions(values: Iterable[Mapping[str, Any]]) -> dict[int, Decision]:
    """The decisions of values that `pack_decisions` made."""
    return {
        one["device"]: Decision(**{name: value for name, value in one.items() if name != "device"})
        for one in values
    }
