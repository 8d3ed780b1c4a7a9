"""The server's side of the uplink's codec: it fits a basis for each cut, and sends it to devices.

A basis is fitted to the first activations, in 4 bits, of the devices with its cut (see
fitted_basis.py). Version numbers count over all cuts, so no two bases of a run have the same.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.model.families import ModelSpec
from cutlayer.train.change_coding import ChangeCoding
from cutlayer.train.coding import codec_of, rate_share
from cutlayer.train.crossed import Crossed, crossed
from cutlayer.train.fitted_basis import FittedBasis, bases_of, saved_bases
from cutlayer.train.read_conditions import patches_a_side, token_classes
from cutlayer.train.reuse import reuses
from cutlayer.train.sample_cache import SampleCache, SentSample, setting_of
from cutlayer.train.sensitivity import Weigh
from cutlayer.train.tail_weighing import TailWeighing
from cutlayer.train.way_coding import ToFit, WayCoding
from cutlayer.train.ways import FEATURE_GRADIENTS, FEATURES, WAYS, Way
from cutlayer.wire.codecs.drift import RateWatch
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.klt_fit import KltSettings
from cutlayer.wire.frame import Bytes, kind_of
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.visit import Held, encode_held

_STALE, _WATCH = "stale.", "watch."
"""Prefixes of the entries of a run's state that say whether a cut's basis no longer suits, and how
long frames have been with it."""


class ServerCoding:
    """The bases of a run, over all of its rounds.

    cache: the samples that devices only name; None where they send all. changes: what is held of
    samples that come as changes; None where they come whole. ways: how all else crosses, gradients
    among it. own: gives samples of the server's own by cut, to fit to; None: bases are fitted to
    what devices send first. weigh: weights errors in a fit; None: all weigh alike. tail: the same
    of what passes a tail on devices; own_tail: gives what bases of
    these ways are fitted to there, of the server's own.
    """

    def __init__(
        self,
        job: Job,
        spec: ModelSpec,
        saved: Mapping[str, Tensor] | None = None,
        own: Callable[[int], Crossed] | None = None,
        weigh: Weigh | None = None,
        tail: TailWeighing | None = None,
        own_tail: Callable[[Sequence[Way]], Mapping[Way, ToFit]] | None = None,
    ) -> None:
        self._own_tail = own_tail
        self._own, self._weigh, self.tail = own, weigh, tail
        self._job, self._spec = job, spec
        self.cache = SampleCache(job.server.cache_bytes) if reuses(job, spec.modality) else None
        changes = job.method.split and job.method.uplink.change
        self.changes = ChangeCoding(job, spec, saved or {}, weigh) if changes else None
        self._version = 0
        self._bases: dict[int, FittedBasis] = defaultdict(FittedBasis)
        if saved and "version" in saved:
            self._version = int(saved["version"])
            for cut, frame in bases_of(saved).items():
                self._bases[cut].frame = frame
                self._bases[cut].stale = bool(saved[f"{_STALE}{cut}"])
                if f"{_WATCH}{cut}" in saved:
                    state = saved[f"{_WATCH}{cut}"].tolist()
                    self._bases[cut].watch = RateWatch().restored(state)
        metrics: dict[Way, Callable[[], Tensor | None]] = {}
        if tail is not None:
            metrics = {FEATURES: tail.features, FEATURE_GRADIENTS: tail.gradients}
        self.ways = {
            way: WayCoding(
                job, spec, way, saved or {}, metrics.get(way) if way.weighs(job) else None
            )
            for way in WAYS
        }

    @property
    def fitted(self) -> bool:
        """Whether the codec of the job's uplink is a fitted one."""
        return self._job.method.split and self._job.method.uplink.codec == "klt"

    def saved(self) -> dict[str, Tensor]:
        """What a run resumes from; empty for codecs that are not fitted."""
        found: dict[str, Tensor] = {}
        for way in self.ways.values():
            found |= way.saved()
        if self.changes is not None:
            found |= self.changes.saved()
        if not self.fitted:
            return found
        there = {cut: one for cut, one in self._bases.items() if one.frame is not None}
        found["version"] = torch.tensor(self._version)
        found |= {f"{_STALE}{cut}": torch.tensor(one.stale) for cut, one in there.items()}
        found |= {
            f"{_WATCH}{cut}": torch.tensor(one.watch.state, dtype=torch.float64)
            for cut, one in there.items()
        }
        return found | saved_bases({cut: one.frame or b"" for cut, one in there.items()})

    def begin(self, decisions: Mapping[int, Decision]) -> None:
        """Start a round, or a turn of it."""
        for way in self.ways.values():
            way.begin(decisions)
        self._fit_own_tail()
        if self.fitted:
            for cut, devices in Counter(one.cut for one in decisions.values()).items():
                self._bases[cut].begin(devices, self._job.training.batch_size)
                if self._own is not None and self.basis(cut) is None:
                    self.fit(cut, self._own(cut))
        if self.cache is not None:
            basis = {device: self.fingerprint(one.cut) for device, one in decisions.items()}
            rates = {d: one.value_bits(self._job.method) for d, one in decisions.items()}
            self.cache.begin(decisions, basis, rates)
        if self.changes is not None:
            cuts = {one.cut for one in decisions.values()}
            settled = {cut: not self.fitted or self.basis(cut) is not None for cut in cuts}
            self.changes.begin(decisions, settled)

    def basis(self, cut: int) -> bytes | None:
        """The frame of a cut's basis; None before it was fitted, and if the codec needs none."""
        return self._bases[cut].frame if cut in self._bases else None

    def codec(self, cut: int) -> KltCodec | None:
        """The codec that decodes what devices of a cut send; None before it was fitted."""
        return self._bases[cut].codec if cut in self._bases else None

    def codec_for(self, decision: Decision) -> KltCodec | None:
        """The codec that a device with this decision encodes with; None before it was fitted."""
        frame = self.basis(decision.cut)
        if frame is None:
            return None
        share = rate_share(self._job.method, decision)
        return codec_of(frame) if share >= 1 else codec_of(frame, share)

    def plain_steps(self, cut: int) -> int:
        """How many first steps of this round devices of a cut send in 4 bits."""
        return self._bases[cut].plain_steps if cut in self._bases else 0

    def fingerprint(self, cut: int) -> int | None:
        """The fingerprint of a cut's basis; None without one."""
        codec = self.codec(cut)
        return None if codec is None else codec.basis.fingerprint

    def fingerprints(self, cut: int) -> tuple[int | None, ...]:
        """Of the bases that devices of a cut need; None for each that there is not."""
        found = (self.fingerprint(cut), *(way.fingerprint(cut) for way in self.ways.values()))
        return found if self.changes is None else (*found, self.changes.fingerprint(cut))

    def forget(self, device: int) -> None:
        """Drop the samples that a device sent, since its data may have changed."""
        if self.cache is not None:
            self.cache.forget(device)
        if self.changes is not None:
            self.changes.forget(device)

    def held(self, device: int) -> bytes | None:
        """A frame that tells a device which of its samples are held; None where all are sent."""
        if self.changes is not None:
            return encode_held(self.changes.held(device))
        if self.cache is None:
            return None
        return encode_held(Held(self.cache.samples(device), self.cache.room_bytes(device)))

    def keep(self, decision: Decision, device: int, sample: int, frame: bytes) -> None:
        """Keep a sample that a device sent, so that the device only names it from then on."""
        if self.cache is not None:
            basis = self.fingerprint(decision.cut) if kind_of(frame).startswith("coded") else None
            rate = decision.value_bits(self._job.method) if basis is not None else 0.0
            setting = setting_of(decision)
            self.cache.keep(SentSample(device, sample, setting, basis, frame, rate))

    def end(self) -> None:
        """End a round: fit bases that no step has fitted; mark bases that no longer suit."""
        for cut, one in self._bases.items():
            if one.waits:
                self.fit(cut)
            one.end(self._drifts)
        if self.changes is not None:
            self.changes.end({cut: one.codec for cut, one in self._bases.items()})
        for way in self.ways.values():
            way.end()
        self._fit_own_tail()
        if self.tail is not None:
            self.tail.end()

    def _fit_own_tail(self) -> None:
        """Fit the bases that are due at a tail to samples of the server's own, run once for all."""
        due = [way for way, one in self.ways.items() if one.wants_own]
        if due and self._own_tail is not None:
            for way, own in self._own_tail(due).items():
                self.ways[way].fit(own)

    @property
    def _drifts(self) -> bool:
        """Whether a basis that no longer suits is fitted again.

        Not where samples are sent once: a new basis would have all of them sent again. Nor where
        the server fits to samples of its own: these are the same as before.
        """
        if self._job.method.device == "trained":
            return True
        return self.cache is None and self._own is None

    def note(self, message: ActivationsMessage, frame: Bytes, decision: Decision) -> None:
        """Note activations that came: to fit a basis to them, or to watch if the basis suits."""
        if self.fitted:
            share = rate_share(self._job.method, decision)
            classes = token_classes(self._job)
            sent = crossed(message, self._spec.prefix, decision.tokens, classes)
            self._bases[decision.cut].note(message.device, sent, frame, share)

    def fit(self, cut: int, own: Crossed | None = None) -> bytes:
        """The frame of a cut's basis, which is fitted first, if there is none, to the activations
        that came or to `own`.
        """
        one, method = self._bases[cut], self._job.method
        if one.frame is None:
            settings = KltSettings(
                prefix=self._spec.prefix,
                step=None if method.uplink.step == "auto" else method.uplink.step,
                rate_bits=method.finest_rate_bits,
                scaled=self._spec.modality == "text",
                patches_a_side=patches_a_side(self._job, self._spec, cut),
                token_classes=token_classes(self._job),
            )
            self._version += 1
            weigh = None if self._weigh is None else partial(self._weigh, cut)
            one.fit(settings, self._version, own, weigh)
        assert one.frame is not None
        return one.frame
