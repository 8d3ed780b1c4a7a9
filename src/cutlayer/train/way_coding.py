"""The server's side of codecs for what it knows anyway, one way through a cut (see ways.py): a
basis for each cut, fitted anew as training goes on.

Nothing has to be sent for a fit: what crosses in the first round does so in 4 bits; at its end a
basis is fitted to it, and devices get it as the next round begins. Or the server fits to samples of
its own before the first round. Where frames become a quarter
longer or shorter than it lets expect, a round's end fits the next version to what that round had.

Of gradients one step size serves all samples of a device's batch, in units of the batch's root mean
square: samples that hardly matter take hardly any bytes.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.model.families import ModelSpec
from cutlayer.seeds import derive
from cutlayer.train.coding import FITTING, codec_of
from cutlayer.train.fitted_basis import MOST_SAMPLES, bases_of, like_others, saved_bases
from cutlayer.train.u_shape import row_positions, to_rows
from cutlayer.train.ways import Way
from cutlayer.wire.codecs.drift import RateWatch, tells_rate
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.klt_fit import KltSettings, fit_basis
from cutlayer.wire.codecs.quantized import QuantizedCodec
from cutlayer.wire.codecs.seam import Codec, Rows
from cutlayer.wire.frame import Bytes, body_length

_PATIENCE = 8
"""Frames, of one batch each, before it is judged whether a basis still suits."""
_MEMORY = 16
"""Frames that the running mean goes over: what crosses changes while the model is trained."""
_WATCH = "watch."
"""Begins the entries of a run's state that say how long frames have been with a basis."""


class ToFit(NamedTuple):
    """Rows to fit a basis to, and the metric of their errors; None: all errors weigh alike."""

    rows: list[Rows]
    metric: Tensor | None


def coded_rows(way: Way, values: Tensor, mask: Tensor | None, positions: Tensor) -> Rows:
    """The tokens of values [B,T,D] that are in the mask, of gradients in units of their root mean
    square: as a codec of this way sees them. positions [n]: where they stand in their samples.
    """
    rows = to_rows(values.detach(), mask).to("cpu", torch.float32)
    if way.gradients:
        rows = rows / (float(rows.square().mean().sqrt()) or 1.0)
    return Rows(rows, positions)


class WayCoding:
    """The bases of one way of a run, over all of its rounds.

    Cuts are those of decisions: where devices hold the last blocks, these begin at one place for
    all of them, and one basis serves. weigh: gives the metric of errors of what crossed in the
    round that ends (see `fit_basis`), or None where nothing tells it yet; without, all weigh alike.
    """

    def __init__(
        self,
        job: Job,
        spec: ModelSpec,
        way: Way,
        saved: Mapping[str, Tensor],
        weigh: Callable[[], Tensor | None] | None = None,
    ) -> None:
        self._job, self._spec, self._way, self._weigh = job, spec, way, weigh
        self._own = way.fits_own(job)
        self._rotation = derive(job.seed, "rotation")
        self._frames = bases_of(saved, way.start)
        self._version = int(saved.get(f"{way.start}version", torch.tensor(0)))
        self._watches: dict[int, RateWatch] = defaultdict(
            lambda: RateWatch(patience=_PATIENCE, memory=_MEMORY)
        )
        watch = f"{way.start}{_WATCH}"
        for place in self._frames:
            if f"{watch}{place}" in saved:
                self._watches[place] = self._watches[place].restored(
                    saved[f"{watch}{place}"].tolist()
                )
        self._share: dict[int, int] = {}
        self._seen: dict[int, list[tuple[int, Rows]]] = defaultdict(list)
        self._samples: dict[tuple[int, int], int] = defaultdict(int)

    @property
    def fitted(self) -> bool:
        """Whether this way has a codec that is fitted."""
        return self._way.is_fitted(self._job)

    def saved(self) -> dict[str, Tensor]:
        """What a run resumes from; empty for codecs that are not fitted."""
        if not self.fitted:
            return {}
        start = self._way.start
        watches = {
            f"{start}{_WATCH}{place}": torch.tensor(one.state, dtype=torch.float64)
            for place, one in self._watches.items()
            if place in self._frames
        }
        version = {f"{start}version": torch.tensor(self._version)}
        return version | watches | saved_bases(self._frames, start)

    def begin(self, decisions: Mapping[int, Decision]) -> None:
        """Start a round, or a turn of it."""
        places = [self._place(one.cut) for one in decisions.values()]
        self._share |= {one: math.ceil(MOST_SAMPLES / places.count(one)) for one in set(places)}

    @property
    def wants_own(self) -> bool:
        """Whether a fit to samples of the server's own is due (see `fit`)."""
        place = self._spec.end
        return self._own and (place not in self._frames or self._watches[place].due)

    def fit(self, own: ToFit) -> None:
        """Fit the basis at the tail to samples of the server's own."""
        self._fit(self._spec.end, *own)

    def fingerprint(self, cut: int) -> int | None:
        """Of a cut's basis; None without one."""
        frame = self.basis(cut)
        return None if frame is None else codec_of(frame).basis.fingerprint

    def basis(self, cut: int) -> bytes | None:
        """The frame of a cut's basis; None before there is one."""
        return self._frames.get(self._place(cut))

    def codec(self, decision: Decision) -> Codec:
        """What crosses this way between server and a device with this decision is encoded with."""
        if not self.fitted:
            method = self._job.method
            plain = self._way.quantizer(method) if self._way.tail else decision.downlink(method)
            return QuantizedCodec(plain, self._rotation)
        return self.codec_at(decision.cut) or QuantizedCodec(FITTING, self._rotation)

    def codec_at(self, cut: int) -> KltCodec | None:
        """The fitted codec of a cut; None before there is one."""
        frame = self.basis(cut)
        return None if frame is None else codec_of(frame)

    def note(
        self, decision: Decision, device: int, values: Tensor, mask: Tensor | None, frame: Bytes
    ) -> None:
        """Take note of what crosses in a frame, [B, T, D]: what the next basis may be fitted to,
        and whether the one in use suits it.
        """
        if not self.fitted:
            return
        place = self._place(decision.cut)
        rows = self._rows(decision, values, mask)
        if tells_rate(frame):
            codec = codec_of(self._frames[place])
            expected = codec.expected_bytes(rows.positions, rows.values.shape[1])
            self._watches[place].add(body_length(frame), expected)
        if not self._own and self._samples[place, device] < self._share[place]:
            self._samples[place, device] += len(values)
            self._seen[place].append((device, rows))

    def end(self) -> None:
        """End a round: fit where there is no basis yet, or it no longer suits, to what crossed."""
        for place, rows in self._seen.items():
            if place not in self._frames or self._watches[place].due:
                metric = None if self._weigh is None else self._weigh()
                if self._weigh is not None and metric is None:
                    continue
                by_device: dict[int, list[Rows]] = defaultdict(list)
                for device, one in rows:
                    by_device[device].append(one)
                alike = like_others(by_device)
                samples = [one for device, one in rows if device in alike]
                self._fit(place, samples, metric)
        self._seen.clear()
        self._samples.clear()

    def _place(self, cut: int) -> int:
        """The blocks before what crosses."""
        return self._spec.end if self._way.tail else cut

    def _rows(self, decision: Decision, values: Tensor, mask: Tensor | None) -> Rows:
        B, T, _ = values.shape
        selected = decision.tokens is not None
        positions = row_positions(B, T, mask, self._spec.prefix, selected)
        return coded_rows(self._way, values, mask, positions)

    def _fit(self, place: int, samples: list[Rows], metric: Tensor | None) -> None:
        quantizer = self._way.quantizer(self._job.method)
        settings = KltSettings(
            prefix=self._spec.prefix,
            step=None if quantizer.step == "auto" else quantizer.step,
            rate_bits=quantizer.rate_bits,
            scaled=self._spec.modality == "text" and not self._way.gradients,
            per_batch=self._way.gradients,
            unbiased=self._way.rounds_at_random(self._job),
        )
        self._version += 1
        self._frames[place] = fit_basis(samples, settings, self._version, metric).frame
        self._watches.pop(place, None)
