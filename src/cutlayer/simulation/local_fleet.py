"""Every device of a run in this process."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from cutlayer.job import Job
from cutlayer.model.lora import Adapter
from cutlayer.planning.known.planning_input import PlanningSource
from cutlayer.record.checkpoint import RunState
from cutlayer.train import change_coding
from cutlayer.train.coding import codec_of
from cutlayer.train.cohort import draw_drop_outs
from cutlayer.train.device_changes import DeviceChanges
from cutlayer.train.fitted_basis import bases_of
from cutlayer.train.label_sharing import SharedLabels
from cutlayer.train.link import LocalLink
from cutlayer.train.opening import Opening
from cutlayer.train.parts import Parts, labels_of, make_device, samples_a_round
from cutlayer.train.result import RoundResult, Trained
from cutlayer.train.round import Turn, train_devices
from cutlayer.train.server_coding import ServerCoding
from cutlayer.train.ways import WAYS

_HAVING = "having"
"""Name of a saved tensor [n, 2]: numbers of devices that have a basis, and the cut it is for.

What the basis codes (activations, changes, or a way of ways.py) stands before the name.
"""
_STARTS = ("", change_coding.WAY, *(way.start for way in WAYS))


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
        self._changes: dict[int, DeviceChanges] = defaultdict(DeviceChanges)

    def gather(self, round: int, drawn: Sequence[int], state: RunState) -> dict[int, int]:
        """See Fleet."""
        cohort = []
        having = {start: _having(state.coding, start) for start in _STARTS}
        bases = {start: bases_of(state.coding, start) for start in _STARTS}
        for index in drawn:
            device = make_device(self.job, self.parts, index)
            device.samples_a_round = samples_a_round(self.job, self.parts, round)
            if self.job.method.aggregate == "none":
                device.adapter = _copy(state.kept.get(index, state.adapter))
            known = {one: bases[one].get(having[one].get(index, -1)) for one in _STARTS}
            ways = {way.name: basis for way in WAYS if (basis := known[way.start]) is not None}
            device.coding.changes = self._changes[index]
            device.coding.begin(
                Opening(basis=known[""], ways=ways, change_basis=known[change_coding.WAY])
            )
            cohort.append(device)
        drop_outs = {} if self.job.method.pooled else draw_drop_outs(self.job, round, drawn)
        self.link = LocalLink(cohort, drop_outs)
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
        for start in _STARTS:
            old, new = bases_of(before, start), bases_of(state.coding, start)
            found = _having(before, start).items()
            having = {d: cut for d, cut in found if old[cut] == new.get(cut)}
            for cut, frame in new.items():
                fingerprint = codec_of(frame).basis.fingerprint
                having |= dict.fromkeys(self.link.having(list(devices), fingerprint), cut)
            if having:
                state.coding[f"{start}{_HAVING}"] = torch.tensor(sorted(having.items()))
        if self.job.method.pooled:
            state.adapter = _copy(devices[result.cohort[0]].adapter)
        elif self.job.method.aggregate == "none":
            state.kept |= {d: _copy(devices[d].adapter) for d in result.cohort}
        self.link.end()


def _having(coding: Mapping[str, torch.Tensor], start: str) -> dict[int, int]:
    """For each device that has a basis of a way, the cut that the basis is for."""
    name = f"{start}{_HAVING}"
    return dict(coding[name].tolist()) if name in coding else {}


def _copy(adapter: Adapter) -> Adapter:
    return {name: tensor.detach().clone() for name, tensor in adapter.items()}
