"""Every device of a run in this process."""

from collections.abc import Sequence

import torch

from cutlayer.job import Job
from cutlayer.model.lora import Adapter
from cutlayer.planning.known.planning_input import PlanningSource
from cutlayer.record.checkpoint import RunState
from cutlayer.train.label_sharing import SharedLabels
from cutlayer.train.link import LocalLink
from cutlayer.train.parts import Parts, labels_of, make_device, samples_a_round
from cutlayer.train.result import RoundResult, Trained
from cutlayer.train.round import Turn, train_devices
from cutlayer.train.server_coding import ServerCoding, basis_of

_HAVING = "having"


class LocalFleet:
    """Devices made for the round that draws them; they share one backbone (see `Fleet` in
    rounds/loop.py).
    """

    real = False
    planning_source: PlanningSource | None = None

    def __init__(self, job: Job, parts: Parts) -> None:
        self.job = job
        self.parts = parts
        self.link = LocalLink([])
        self._labels = labels_of(job, parts)

    def gather(self, round: int, drawn: Sequence[int], state: RunState) -> dict[int, int]:
        """See Fleet."""
        cohort = []
        having = set(state.coding[_HAVING].tolist()) if _HAVING in state.coding else set()
        for index in drawn:
            device = make_device(self.job, self.parts, index)
            device.samples_a_round = samples_a_round(self.job, self.parts, round)
            if self.job.method.aggregate == "none":
                device.adapter = _copy(state.kept.get(index, state.adapter))
            if index in having:
                device.coding.learn(basis_of(state.coding))
            cohort.append(device)
        self.link = LocalLink(cohort)
        return {device.id: device.samples for device in cohort}

    def labels(self) -> SharedLabels:
        """See Fleet."""
        return self._labels

    def train_turn(self, turn: Turn) -> dict[int, Trained]:
        """See Fleet."""
        return train_devices(turn)

    def release(self, result: RoundResult, state: RunState, coding: ServerCoding) -> None:
        """See Fleet. The state also says which devices have the basis."""
        devices = self.link.devices
        before, state.coding = state.coding, coding.saved()
        if coding.codec is not None:
            having = self.link.having(list(devices), coding.codec.basis.fingerprint)
            if _HAVING in before and basis_of(before) == coding.basis:
                having |= set(before[_HAVING].tolist())
            state.coding[_HAVING] = torch.tensor(sorted(having))
        if self.job.method.pooled:
            state.adapter = _copy(devices[result.cohort[0]].adapter)
        elif self.job.method.aggregate == "none":
            state.kept |= {d: _copy(devices[d].adapter) for d in result.cohort}
        self.link.end()


def _copy(adapter: Adapter) -> Adapter:
    return {name: tensor.detach().clone() for name, tensor in adapter.items()}
