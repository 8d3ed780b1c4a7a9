"""The server's side of the uplink's codec: it fits the basis, hands it out and fits it again.

It is fitted to what the devices of a round send first, in 4 bits. Where the blocks on the devices
are trained, what they send drifts away from it: once frames are a quarter longer or shorter than
the basis lets expect, the next round begins in 4 bits again, and a new version follows.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.model.families import ModelSpec
from cutlayer.train.coding import codec_of
from cutlayer.train.reuse import reuses
from cutlayer.train.sample_cache import SampleCache, SentSample, setting_of
from cutlayer.wire.codecs.drift import RateWatch
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.klt_fit import KltSettings, fit_basis
from cutlayer.wire.codecs.seam import MERGED, Rows
from cutlayer.wire.frame import Bytes, body_length, kind_of
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.places import find_places
from cutlayer.wire.visit import Held, encode_held

LEAST_SAMPLES = 64
"""Samples that a basis is fitted to, of all devices of a round together, where there are as many:
a few dozen suffice."""
MOST_SAMPLES = 256
"""No more are kept: the fit takes time and memory by them."""
_MOST_OF_MEDIAN = 10.0
"""A device whose activations are so many times as large as its cohort's has no say in the basis."""


def basis_of(saved: Mapping[str, Tensor]) -> bytes:
    """The frame of the basis in what `ServerCoding.saved` gave."""
    return saved["basis"].numpy().tobytes()


class ServerCoding:
    """The basis of a run, over all of its rounds.

    codec: None before the first fit, and for uplinks that need no fitting. basis: its frame.
    plain_steps: the first steps of this round, in 4 bits, before the basis goes down. cache: the
    samples that devices only name; None where they send all.
    """

    def __init__(self, job: Job, spec: ModelSpec, saved: Mapping[str, Tensor] | None = None):
        self._job, self._spec = job, spec
        self.codec: KltCodec | None = None
        self.basis: bytes | None = None
        self.plain_steps = 0
        self.cache = SampleCache(job.server.cache_bytes) if reuses(job, spec.modality) else None
        self._version, self._stale = 0, False
        self._share = MOST_SAMPLES
        self._seen: dict[int, list[Rows]] = defaultdict(list)
        self._samples: dict[int, int] = defaultdict(int)
        self._watch = RateWatch()
        if saved and "version" in saved:
            self._version, self._stale = int(saved["version"]), bool(saved["stale"])
            if "basis" in saved:
                self._use(basis_of(saved))

    @property
    def fitted(self) -> bool:
        """Whether the job's uplink has a codec that is fitted."""
        return self._job.method.split and self._job.method.uplink.codec == "klt"

    def saved(self) -> dict[str, Tensor]:
        """What a run resumes from; empty for codecs that are not fitted."""
        if not self.fitted:
            return {}
        found = {"version": torch.tensor(self._version), "stale": torch.tensor(self._stale)}
        if self.basis is not None:
            found["basis"] = torch.frombuffer(bytearray(self.basis), dtype=torch.uint8)
        return found

    def begin(self, decisions: Mapping[int, Decision]) -> None:
        """Start a round, or a turn of it."""
        self.plain_steps, devices = 0, len(decisions)
        if self._stale:
            self.codec = self.basis = None
            self._stale = False
        if self.cache is not None:
            self.cache.begin(decisions, self.fingerprint)
        if self.fitted and self.codec is None:
            batch = self._job.training.batch_size
            self.plain_steps = max(1, math.ceil(LEAST_SAMPLES / (batch * devices)))
            self._share = math.ceil(MOST_SAMPLES / devices)

    @property
    def fingerprint(self) -> int | None:
        """Of the basis in use; None without one."""
        return None if self.codec is None else self.codec.basis.fingerprint

    def forget(self, device: int) -> None:
        """Drop what a device sent: its data may have changed."""
        if self.cache is not None:
            self.cache.forget(device)

    def held(self, device: int) -> bytes | None:
        """A frame that tells a device which of its samples are held; None where all are sent."""
        if self.cache is None:
            return None
        return encode_held(Held(self.cache.samples(device), self.cache.room_bytes(device)))

    def keep(self, decision: Decision, device: int, sample: int, frame: bytes) -> None:
        """Keep a sample that a device sent, which will only name it then."""
        if self.cache is not None:
            basis = self.fingerprint if kind_of(frame).startswith("coded") else None
            self.cache.keep(SentSample(device, sample, setting_of(decision), basis, frame))

    def end(self) -> None:
        """End a round: fit where no step came to it; a basis that no longer suits is its last."""
        if self.codec is None and self._seen:
            self.fit()
        elif self._job.method.device == "trained" and self._watch.due:
            self._stale = True
        self._watch = RateWatch()

    def note(self, message: ActivationsMessage, frame: Bytes, tokens: int | None) -> None:
        """Take note of activations that came: to fit to, or to see whether the basis suits them.

        tokens: kept of a sample besides the prefix; None: all.
        """
        if not self.fitted:
            return
        rows = _rows(message, self._spec.prefix, tokens)
        if self.codec is not None:
            expected = self.codec.expected_bytes(rows.positions, rows.values.shape[1])
            self._watch.add(body_length(frame), expected)
        elif self._samples[message.device] < self._share:
            self._samples[message.device] += len(message.hidden)
            self._seen[message.device].append(rows)

    def fit(self) -> bytes:
        """Fit the basis to what came; returns its frame. The samples are forgotten then."""
        if self.basis is None:
            uplink = self._job.method.uplink
            settings = KltSettings(
                prefix=self._spec.prefix,
                step=None if uplink.step == "auto" else uplink.step,
                rate_bits=uplink.rate_bits,
                scaled=self._spec.modality == "text",
            )
            self._version += 1
            self._use(fit_basis(self._like_others(), settings, self._version).frame)
        assert self.basis is not None
        return self.basis

    def _use(self, basis: bytes) -> None:
        self.basis, self.codec = basis, codec_of(basis)
        self._seen.clear()
        self._samples.clear()

    def _like_others(self) -> list[Rows]:
        """The rows of devices whose activations are about as large as the others'.

        A device that sends values of another size, by mistake or on purpose, would have the basis
        to itself.
        """
        sizes = {
            device: statistics.fmean(float(one.values.square().mean()) for one in rows)
            for device, rows in sorted(self._seen.items())
        }
        most = _MOST_OF_MEDIAN**2 * statistics.median_low(sizes.values())
        return [one for device in sizes if sizes[device] <= most for one in self._seen[device]]


def _rows(message: ActivationsMessage, prefix: int, tokens: int | None) -> Rows:
    """The tokens of a message that are no padding, and their positions.

    Frames in 4 bits do not say where tokens stood that were kept of several: their mean is that of
    all, as a merged token's is.
    """
    positions = find_places(message.hidden, message.places).clone()
    if tokens is not None and message.places is None:
        positions[:, prefix:] = MERGED
    values, places = message.hidden.flatten(0, 1), positions.flatten()
    if message.mask is not None:
        valid = message.mask.flatten()
        values, places = values[valid], places[valid]
    return Rows(values, places)
