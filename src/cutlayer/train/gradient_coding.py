"""The server's side of the downlink's codec: a basis of gradients for each cut, fitted again during
training.

The server knows the exact gradients, so devices send nothing for a fit. Gradients of the first
round go down in 4 bits; at the end of the round a basis is fitted to them, and devices get it when
the next round begins. If frames become a quarter longer or shorter than the basis predicts, the
next version is fitted to a round's gradients at its end.

All samples of a device's batch have one step size, in units of the batch's root mean square:
samples with small gradients take few bytes.
"""

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.model.families import ModelSpec
from cutlayer.seeds import derive
from cutlayer.train.coding import FITTING, codec_of
from cutlayer.train.fitted_basis import MOST_SAMPLES, bases_of, saved_bases
from cutlayer.wire.codecs.drift import RateWatch
from cutlayer.wire.codecs.klt_fit import KltSettings, fit_basis
from cutlayer.wire.codecs.quantized import QuantizedCodec
from cutlayer.wire.codecs.seam import Codec, Rows
from cutlayer.wire.frame import Bytes, body_length, kind_of

WAY = "down."
"""Prefix of the names of these entries in a run's state."""

_PATIENCE = 8
"""How many frames (one for each batch) are watched before it is judged if a basis still suits."""


class GradientCoding:
    """The bases of a run's gradients, over all of its rounds."""

    def __init__(self, job: Job, spec: ModelSpec, saved: Mapping[str, Tensor]) -> None:
        self._job, self._spec = job, spec
        self._rotation = derive(job.seed, "rotation")
        self._frames = bases_of(saved, WAY)
        self._version = int(saved.get(f"{WAY}version", torch.tensor(0)))
        self._watches: dict[int, RateWatch] = defaultdict(lambda: RateWatch(patience=_PATIENCE))
        self._share: dict[int, int] = {}
        self._seen: dict[int, list[Rows]] = defaultdict(list)
        self._samples: dict[tuple[int, int], int] = defaultdict(int)

    @property
    def fitted(self) -> bool:
        """Whether the codec of the job's downlink is a fitted one."""
        return self._job.method.split and self._job.method.downlink.codec == "klt"

    def saved(self) -> dict[str, Tensor]:
        """The state from which a run resumes; empty if the codec is not a fitted one."""
        if not self.fitted:
            return {}
        return {f"{WAY}version": torch.tensor(self._version)} | saved_bases(self._frames, WAY)

    def begin(self, decisions: Mapping[int, Decision]) -> None:
        """Start a round, or a turn of it."""
        cuts = [one.cut for one in decisions.values()]
        self._share |= {cut: math.ceil(MOST_SAMPLES / cuts.count(cut)) for cut in set(cuts)}

    def fingerprint(self, cut: int) -> int | None:
        """The fingerprint of a cut's basis; None without one."""
        frame = self.basis(cut)
        return None if frame is None else codec_of(frame).basis.fingerprint

    def basis(self, cut: int) -> bytes | None:
        """The frame of a cut's basis; None before there is one."""
        return self._frames.get(cut)

    def codec(self, decision: Decision) -> Codec:
        """The codec to encode a device's gradients with."""
        if not self.fitted:
            return QuantizedCodec(decision.downlink(self._job.method), self._rotation)
        frame = self.basis(decision.cut)
        return QuantizedCodec(FITTING, self._rotation) if frame is None else codec_of(frame)

    def note(
        self, cut: int, device: int, gradient: Tensor, mask: Tensor | None, frame: Bytes
    ) -> None:
        """Note a gradient [B, T, D] that goes down in a frame: the next basis may be fitted to it,
        and its bytes show whether the present basis still suits.
        """
        if not self.fitted:
            return
        rows = _rows(gradient, mask)
        if kind_of(frame).startswith("coded"):
            expected = codec_of(self._frames[cut]).expected_bytes(
                rows.positions, rows.values.shape[1]
            )
            self._watches[cut].add(body_length(frame), expected)
        if self._samples[cut, device] < self._share[cut]:
            self._samples[cut, device] += len(gradient)
            self._seen[cut].append(rows)

    def end(self) -> None:
        """End a round: fit a basis if there is none yet or it no longer suits."""
        for cut, rows in self._seen.items():
            if cut not in self._frames or self._watches[cut].due:
                self._version += 1
                self._frames[cut] = self._fit(rows)
        self._seen.clear()
        self._samples.clear()
        self._watches.clear()  # so that a run that is resumed here continues in the same way

    def _fit(self, rows: list[Rows]) -> bytes:
        downlink = self._job.method.downlink
        settings = KltSettings(
            prefix=self._spec.prefix,
            step=None if downlink.step == "auto" else downlink.step,
            rate_bits=downlink.rate_bits,
            per_batch=True,
        )
        return fit_basis(rows, settings, self._version).frame


def _rows(gradient: Tensor, mask: Tensor | None) -> Rows:
    """The rows of a gradient without padding, divided by their root mean square, as the codec does
    it."""
    B, T, D = gradient.shape
    values = gradient.detach().to("cpu", torch.float32).reshape(-1, D)
    positions = torch.arange(T).expand(B, T).reshape(-1)
    if mask is not None:
        valid = mask.to("cpu", torch.bool).reshape(-1)
        values, positions = values[valid], positions[valid]
    return Rows(values / (float(values.square().mean().sqrt()) or 1.0), positions)
