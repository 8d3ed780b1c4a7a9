"""The devices of a run over the ranks of `torchrun`: rank 0 asks, each trains its part of a round.

Rank 0 decides, averages, tests and writes as if it were alone; of a round it sends the global
adapter to all ranks once, and gets back what each device came to, once.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from cutlayer.errors import JobError, RunError
from cutlayer.job import Job, make_job
from cutlayer.model.families import describe
from cutlayer.model.lora import Adapter
from cutlayer.programs.packages import blocks_for
from cutlayer.record.checkpoint import RunState
from cutlayer.simulation.local_fleet import LocalFleet
from cutlayer.simulation.parcel import Parcel
from cutlayer.simulation.ranks import Ranks
from cutlayer.simulation.shards import (
    join_shards,
    pack_decisions,
    pack_shard,
    read_decisions,
    shard,
    why_one_chain,
)
from cutlayer.train.noise import noise_secret, take_noise_secret
from cutlayer.train.parts import Parts, load_parts, make_server
from cutlayer.train.pool_size import pool_size
from cutlayer.train.result import RoundResult, Trained
from cutlayer.train.round import Turn

Say = Callable[[str], object]
_CHANGE = "change"


def load_on_all(job: Job, say: Say, ranks: Ranks) -> Parts:
    """Model and data of a job, on every rank that has a part in it; rank 0 returns its own.

    A method whose rounds cannot be divided stays on rank 0, which says so. Raises as `load_parts`,
    JobError for more ranks than devices of a round, and RunError where not all ranks have a GPU.
    """
    reason = why_one_chain(job, describe(job.model))
    if reason is not None:
        say(
            f"torchrun: a round of {job.method.name} cannot be divided ({reason}), so all of "
            f"it runs on rank 0; the other {ranks.count - 1} ranks have nothing to do"
        )
        ranks.stop()
        return load_parts(job, say)
    if ranks.count > job.devices.cohort:
        raise JobError(
            f"torchrun: {ranks.count} ranks but a round has {job.devices.cohort} devices: start "
            f"--nproc-per-node {job.devices.cohort} at most, or raise devices.per_round"
        )
    held: list[Parts] = []

    def own() -> Parcel:
        kind = ranks.use(job)
        held.append(load_parts(job, say))
        return Parcel({"computes_on": kind})

    wanted = {"job": job.model_dump(mode="json"), "noise": noise_secret()}
    answers = ranks.ask(Parcel(wanted), own)
    kinds = [answer.values["computes_on"] for answer in answers]
    if len(set(kinds)) > 1:
        raise RunError(
            f"torchrun: ranks compute on {', '.join(kinds)}, in their order: take "
            "training.compute cpu, or machines of one kind"
        )
    return held[0]


class ShardedFleet(LocalFleet):
    """All devices of a run, as rank 0 knows them (see `Fleet` in rounds/loop.py).

    Those that train elsewhere are made here too, for what allocators ask of them.
    """

    def __init__(self, job: Job, parts: Parts, ranks: Ranks) -> None:
        super().__init__(job, parts)
        self._ranks = ranks
        self._samples: Mapping[int, int] = {}

    def gather(self, round: int, drawn: Sequence[int], state: RunState) -> dict[int, int]:
        """See Fleet."""
        self._samples = found = super().gather(round, drawn, state)
        return found

    def train_turn(self, turn: Turn) -> dict[int, Trained]:
        """See Fleet. Raises RunError where a rank fails."""
        result, server, devices = turn.result, turn.server, self.link.devices
        decisions = {device: result.decisions[device] for device in turn.devices}
        model, ranks = self.parts.model, self._ranks.count
        pool = pool_size(self.job, model)
        shards, order = shard(self.job, model.spec, decisions, self._samples, ranks, pool)
        keep = self.job.method.aggregate == "none"
        tensors = {f"global/{name}": tensor for name, tensor in server.adapter.items()}
        for device in turn.devices if keep else ():
            own = devices[device].adapter
            tensors |= {f"{device}/{name}": tensor for name, tensor in own.items()}
        request = Parcel(
            {
                "round": result.round,
                "bare": server.bare,
                "shards": [pack_decisions({d: decisions[d] for d in one}) for one in shards],
            },
            tensors,
        )
        mine = RoundResult(result.round, {d: decisions[d] for d in shards[0]}, watch=result.watch)
        here = Turn(shards[0], (0, 1), turn.link, server, mine, turn.on_step)
        with result.watch.timed("other ranks"):
            answers = self._ranks.ask(request, partial(_trained, here, self))
        # What this process took is in the round's own time already.
        answers[0] = Parcel({**answers[0].values, "cpu_seconds": 0.0}, answers[0].tensors)
        trained, kept = join_shards(result, answers, order)
        place = self.parts.model.compute
        for device, own in kept.items():
            if turn.sums:
                devices[device].begin_sum(result.round, own[_CHANGE].numpy())
            else:
                devices[device].adapter = _at(own, place)
        found = {
            device: Trained(one.weight, _at(one.upload, place), _at(one.after_cut, place))
            for device, one in trained.items()
        }
        if turn.sums and found:
            turn.change = turn.sum_up(found)
        return found


class RankWorker:
    """What a rank other than 0 does: it loads a job, and trains its part of each round."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._fleet: LocalFleet | None = None

    def answer(self, request: Parcel) -> Parcel:
        """Do what rank 0 asks. Raises what the job's loading or training raises."""
        if "job" in request.values:
            job = make_job(request.values["job"])
            take_noise_secret(request.values["noise"])
            kind = self._ranks.use(job)
            parts = load_parts(job)
            parts = replace(parts, blocks=blocks_for(job, parts.model))
            self._fleet = LocalFleet(job, parts)
            return Parcel({"computes_on": kind})
        if self._fleet is None:
            raise RunError("torchrun: rank 0 sent a round before a job: run one cutlayer on all")
        return self._train(self._fleet, request)

    def _train(self, fleet: LocalFleet, request: Parcel) -> Parcel:
        job, parts, number = fleet.job, fleet.parts, request.values["round"]
        decisions = read_decisions(request.values["shards"][self._ranks.rank])
        adapters: dict[str, Adapter] = {}
        for key, tensor in request.tensors.items():
            owner, _, name = key.partition("/")
            adapters.setdefault(owner, {})[name] = tensor.to(parts.model.compute)
        state = RunState(number, adapters["global"])
        state.kept = {d: adapters[str(d)] for d in decisions if str(d) in adapters}
        fleet.gather(number, list(decisions), state)
        server = make_server(job, parts, state.adapter, request.values["bare"])
        result = RoundResult(number, decisions)
        turn = Turn(list(decisions), (0, 1), fleet.link, server, result)
        answer = _trained(turn, fleet)
        fleet.link.end()
        return answer


def _trained(turn: Turn, fleet: LocalFleet) -> Parcel:
    """Train the devices of a turn here, and tell of it."""
    began = time.process_time()
    trained = turn.train_apart()
    turn.result.cpu_seconds = time.process_time() - began
    devices, own = fleet.link.devices, {}
    if turn.sums:
        own = {device: {_CHANGE: torch.from_numpy(devices[device].change())} for device in trained}
    elif fleet.job.method.aggregate == "none":
        own = {device: devices[device].adapter for device in turn.devices}
    return pack_shard(turn.result, trained, own)


def _at(adapter: Adapter, place: torch.device) -> Adapter:
    return {name: tensor.to(place) for name, tensor in adapter.items()}
