"""The basis of the devices of one cut: fitted to what they send first, and watched from then on.

If the blocks on the devices train, or other data come, activations drift away from the basis: once
frames are a quarter longer or shorter than the basis predicts, the next round begins in 4 bits
again, and a new version is fitted.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from cutlayer.train.coding import codec_of
from cutlayer.train.crossed import Crossed
from cutlayer.wire.codecs.drift import RateWatch, tells_rate
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.klt_fit import KltSettings, fit_basis
from cutlayer.wire.codecs.seam import Rows
from cutlayer.wire.frame import Bytes, body_length

LEAST_SAMPLES = 64
"""How many samples of all devices together a basis is fitted to, if there are as many: a few dozen
suffice."""
MOST_SAMPLES = 256
"""The most samples that are kept for a fit, whose time and memory grow with them."""
_MOST_OF_MEDIAN = 10.0
"""A device whose values are so many times as large as its cohort's has no say in the basis."""


def bases_of(saved: Mapping[str, Tensor], way: str = "") -> dict[int, bytes]:
    """The frame of each cut's basis in a run's state (see `saved_bases`)."""
    start = f"{way}basis."
    return {
        int(name.removeprefix(start)): tensor.numpy().tobytes()
        for name, tensor in saved.items()
        if name.startswith(start)
    }


def saved_bases(frames: Mapping[int, bytes], way: str = "") -> dict[str, Tensor]:
    """The bases of one direction (activations or gradients), as tensors of a run's state.

    way: prefix of the names; "" for activations.
    """
    return {
        f"{way}basis.{cut}": torch.frombuffer(bytearray(frame), dtype=torch.uint8)
        for cut, frame in sorted(frames.items())
    }


def like_others(seen: Mapping[int, Sequence[Rows]]) -> set[int]:
    """Those devices whose rows are about as large as the others'.

    A device whose values are of another size, by mistake or on purpose, would have the basis to
    itself.
    """
    sizes = {
        device: statistics.fmean(float(one.values.square().mean()) for one in rows)
        for device, rows in seen.items()
    }
    most = _MOST_OF_MEDIAN**2 * statistics.median_low(sizes.values())
    return {device for device, size in sizes.items() if size <= most}


class FittedBasis:
    """One cut's basis, over all rounds of a run.

    frame: of the basis; None before a fit. plain_steps: how many first steps of this round devices
    send in 4 bits, before the basis goes down. watch: of the frames encoded with the basis, in all
    rounds since the fit.
    """

    def __init__(self) -> None:
        self.frame: bytes | None = None
        self.plain_steps = 0
        self.stale = False
        self._share = MOST_SAMPLES
        self._seen: dict[int, list[Crossed]] = defaultdict(list)
        self._samples: dict[int, int] = defaultdict(int)
        self.watch = RateWatch()

    @property
    def codec(self) -> KltCodec | None:
        """The codec of the basis, at the step size it was fitted for; None before a fit."""
        return None if self.frame is None else codec_of(self.frame)

    def begin(self, devices: int, batch_size: int) -> None:
        """Start a round, or a turn of it. devices: how many have this cut."""
        self.plain_steps = 0
        if self.stale:
            self.frame, self.stale = None, False
        if self.frame is None:
            self.plain_steps = max(1, math.ceil(LEAST_SAMPLES / (batch_size * devices)))
            self._share = math.ceil(MOST_SAMPLES / devices)

    def note(self, device: int, sent: Crossed, frame: Bytes, share: float) -> None:
        """Note what a device sent: to fit a basis to it or, if there is one, to watch if it suits.

        share: see `codec_of`.
        """
        if self.frame is not None:
            if not tells_rate(frame):
                return
            codec = codec_of(self.frame) if share >= 1 else codec_of(self.frame, share)
            expected = codec.expected_bytes(sent.rows.positions, sent.hidden.shape[2])
            self.watch.add(body_length(frame), expected)
        elif self._samples[device] < self._share:
            self._samples[device] += len(sent.hidden)
            self._seen[device].append(sent)

    @property
    def waits(self) -> bool:
        """Whether there are rows to fit a basis to, and no basis yet."""
        return self.frame is None and bool(self._seen)

    def fit(
        self,
        settings: KltSettings,
        version: int,
        own: Crossed | None = None,
        weigh: Callable[[Sequence[Crossed]], Tensor] | None = None,
    ) -> None:
        """Fit the basis to what devices sent, and forget it.

        own: samples of the server's own, to fit to instead; then no steps are sent in 4 bits.
        weigh: gives the metric of these samples' errors; None: all errors weigh alike.
        """
        samples = [own] if own is not None else []
        rows = [one.rows for one in samples]
        if own is None:
            seen = {device: [one.rows for one in sent] for device, sent in self._seen.items()}
            alike = sorted(like_others(seen))
            samples = [one for device in alike for one in self._seen[device]]
            rows = [one for device in alike for one in seen[device]]
        metric = None if weigh is None else weigh(samples)
        self.frame = fit_basis(rows, settings, version, metric).frame
        if own is not None:
            self.plain_steps = 0
        self._seen.clear()
        self._samples.clear()
        self.watch = RateWatch()

    def end(self, drifts: bool) -> None:
        """End a round. drifts: whether another fit would help where activations have drifted."""
        self.stale = self.stale or (drifts and self.watch.due)
