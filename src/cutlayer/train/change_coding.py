"""The server's side of change coding: what it holds of each sample, and the basis of changes.

AQ-SGD (Wang, Yuan, Rimanic, He, Dao, Chen, Re, Zhang 2022, arXiv 2206.01299, algorithm 1): at its
first visit a sample's activations go up whole; later goes up, quantised, what they differ by from
what the server holds, which device and server both add to it. With the codec `klt` changes have a
basis of their own, at the step size of the activations' basis: in the first round with changes, the
first of them come in 4 bits and the other samples whole; the basis fitted to them at the round's
end goes down as the next begins. Once changes outgrow it, the next round fits another in the same
way, but that meanwhile the old one serves.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.model.families import ModelSpec
from cutlayer.train.change_buffers import ChangeBuffers
from cutlayer.train.coding import codec_of
from cutlayer.train.crossed import Crossed
from cutlayer.train.fitted_basis import LEAST_SAMPLES, bases_of, saved_bases
from cutlayer.train.read_conditions import patches_a_side
from cutlayer.train.sensitivity import Weigh
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.klt_fit import KltSettings, fit_basis
from cutlayer.wire.frame import Bytes, body_length, kind_of
from cutlayer.wire.visit import Held

WAY = "change."
"""What the entries of a run's state begin with."""
_LONGER = 1.25
"""A basis is outgrown once changes take so many times the bytes of its first round."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """A change [1, T, D], and what the sample's activations became by it."""

    change: Tensor
    hidden: Tensor


def _crossed(hidden: Tensor) -> Crossed:
    """A sample at the cut, with all its tokens."""
    return Crossed(hidden, None, torch.arange(hidden.shape[1])[None])


class ChangeCoding:
    """What the server holds of all devices' samples, over all rounds of a run.

    No more than `server.cache_bytes` of it. It is not saved: in a run that is resumed, samples go
    up whole once more. weigh: as of ServerCoding.
    """

    def __init__(
        self,
        job: Job,
        spec: ModelSpec,
        saved: Mapping[str, Tensor],
        weigh: Weigh | None = None,
    ) -> None:
        self._job, self._spec, self._weigh = job, spec, weigh
        self._buffers: dict[int, ChangeBuffers] = defaultdict(ChangeBuffers)
        self._frames = bases_of(saved, WAY)
        self._version = int(saved.get(f"{WAY}version", torch.tensor(0)))
        self._steps: dict[int, int | None] = {}
        self._outgrown: set[int] = set()
        self._usual: dict[int, float] = {}
        self._seen: dict[int, list[_Seen]] = defaultdict(list)
        self._lengths: dict[int, list[int]] = defaultdict(list)

    def saved(self) -> dict[str, Tensor]:
        """The bases, for a run that is resumed."""
        return {f"{WAY}version": torch.tensor(self._version)} | saved_bases(self._frames, WAY)

    def begin(self, decisions: Mapping[int, Decision], settled: Mapping[int, bool]) -> None:
        """Start a round, or a turn of it.

        settled: of each cut, whether whole activations have what they are encoded with; in rounds
        in which it is yet to come there are no changes.
        """
        used = sum(one.used_bytes for one in self._buffers.values())
        room = max(0, self._job.server.cache_bytes - used) // len(decisions)
        alike: dict[int, list[int]] = defaultdict(list)
        for device, decision in decisions.items():
            alike[decision.cut].append(device)
            self._buffers[device].begin(room)
        for cut, devices in alike.items():
            self._steps[cut] = None
            if settled[cut] and any(self._buffers[device].samples for device in devices):
                fits = self._job.method.uplink.codec == "klt" and (
                    cut not in self._frames or cut in self._outgrown
                )
                batch = self._job.training.batch_size * len(devices)
                self._steps[cut] = math.ceil(LEAST_SAMPLES / batch) if fits else 0

    def steps(self, cut: int) -> int | None:
        """The first steps of this round whose changes come in 4 bits, after which samples come
        whole until there is a basis; None: there are no changes."""
        return self._steps[cut]

    def held(self, device: int) -> Held:
        """Which of a device's samples are held."""
        one = self._buffers[device]
        return Held(frozenset(one.samples), one.room_bytes)

    def digest(self, device: int) -> int:
        """Of what is held of a device; see `ChangeBuffers.digest`."""
        return self._buffers[device].digest

    def find(self, device: int, sample: int) -> Tensor | None:
        """What is held of a sample, [T, D]; None for nothing."""
        return self._buffers[device].find(sample)

    def keep(self, device: int, sample: int, hidden: Tensor) -> None:
        """Hold what a sample's activations [T, D] became."""
        self._buffers[device].keep(sample, hidden)

    def forget(self, device: int) -> None:
        """Drop what is held of a device: its data may have changed."""
        self._buffers[device] = ChangeBuffers()

    def basis(self, cut: int) -> bytes | None:
        """The frame of a cut's basis of changes; None before there is one."""
        return self._frames.get(cut)

    def codec(self, cut: int) -> KltCodec | None:
        """What decodes changes; None before there is a basis, and where none is needed."""
        frame = self.basis(cut)
        return None if frame is None else codec_of(frame)

    def fingerprint(self, cut: int) -> int | None:
        """Of a cut's basis of changes; None without one."""
        codec = self.codec(cut)
        return None if codec is None else codec.basis.fingerprint

    def note(self, cut: int, change: Tensor, hidden: Tensor, frame: Bytes) -> None:
        """Take note of a change [1, T, D]: to fit to, or to see whether the basis suits it.

        hidden: what the sample's activations became by it.
        """
        if self._job.method.uplink.codec != "klt":
            return
        if kind_of(frame).startswith("coded"):
            self._lengths[cut].append(body_length(frame))
        elif self._steps[cut]:
            self._seen[cut].append(_Seen(change, hidden))

    def end(self, codecs: Mapping[int, KltCodec | None]) -> None:
        """End a round: fit where changes came in 4 bits; a basis that they outgrow is its last.

        codecs: of whole activations, by cut.
        """
        for cut, seen in self._seen.items():
            whole = codecs[cut]
            assert whole is not None
            self._version += 1
            settings = KltSettings(
                prefix=self._spec.prefix,
                step=whole.basis.head.step,
                patches_a_side=patches_a_side(self._job, self._spec, cut),
            )
            # Changes have a mean, that of one round's steps; the next round's is another. Fitted to
            # their negatives as well, beside each so that none is measured by its twin, the basis
            # has none.
            rows = [_crossed(one.change).rows for one in seen]
            both = [part for one in rows for part in (one, replace(one, values=-one.values))]
            metric = None
            if self._weigh is not None:
                metric = self._weigh(cut, [_crossed(one.hidden) for one in seen])
            self._frames[cut] = fit_basis(both, settings, self._version, metric).frame
            self._outgrown.discard(cut)
            self._usual.pop(cut, None)
            self._lengths.pop(cut, None)
        for cut, lengths in self._lengths.items():
            # Against the first round with this basis: laws fitted to few samples expect too little.
            mean = statistics.fmean(lengths)
            if mean > _LONGER * self._usual.setdefault(cut, mean):
                self._outgrown.add(cut)
        self._seen.clear()
        self._lengths.clear()
