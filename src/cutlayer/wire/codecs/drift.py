"""Finds out when a fitted codec no longer suits its data: by bytes measured against expected ones.

A trained device part, or other data, changes what the codec encodes. Rows then take more bytes
than the laws expect (or fewer: a coarser or smaller basis would do). The watch only says so; the
server decides, fits again, and sends the new version before any device encodes with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cutlayer.wire import frame
from cutlayer.wire.frame import Bytes
from cutlayer.wire.headers import (
    CodedActivationsHeader,
    CodedFeatureGradientHeader,
    CodedFeaturesHeader,
    CodedGradientHeader,
)

_Coded = (
    CodedActivationsHeader | CodedGradientHeader | CodedFeaturesHeader | CodedFeatureGradientHeader
)
_HEADERS: dict[str, type[_Coded]] = {
    "coded activations": CodedActivationsHeader,
    "coded token activations": CodedActivationsHeader,
    "coded gradient": CodedGradientHeader,
    "coded features": CodedFeaturesHeader,
    "coded feature gradient": CodedFeatureGradientHeader,
}


def tells_rate(data: Bytes) -> bool:
    """Whether the laws of a fitted codec say how long the body of a frame, read before, should be.

    They do not where zstandard coded it for want of a range coder: such bodies are longer by a
    share that depends on the data. Nor where it came in 4 bits, before there was a basis.
    """
    kind = frame.kind_of(data)
    if kind not in _HEADERS:
        return False
    header, _ = frame.unpack(data, kind, _HEADERS[kind], max_bytes=len(data))
    return header.coding.coder == "range"


@dataclass
class RateWatch:
    """Compares the lengths of coded bodies with those expected (`Codec.expected_bytes`).

    tolerance: how far their ratio may lie from 1 before a new fit is due. patience: how many bodies
    are needed before a fit can be due. memory: over how many bodies the running mean goes.
    """

    tolerance: float = 0.25
    patience: int = 20
    memory: int = 50
    seen: int = 0
    _measured: float = 0.0
    _expected: float = 0.0

    @property
    def state(self) -> tuple[float, float, float]:
        """What a run that is resumed goes on from (see `restored`)."""
        return self.seen, self._measured, self._expected

    def restored(self, state: Sequence[float]) -> "RateWatch":
        """A watch with these settings that has this state."""
        seen, measured, expected = state
        return replace(self, seen=int(seen), _measured=measured, _expected=expected)

    def add(self, measured_bytes: float, expected_bytes: float) -> bool:
        """Count one body; returns whether a new fit is due."""
        keep = 1 - 1 / min(self.seen + 1, self.memory)
        self._measured = keep * self._measured + (1 - keep) * measured_bytes
        self._expected = keep * self._expected + (1 - keep) * expected_bytes
        self.seen += 1
        return self.due

    @property
    def ratio(self) -> float:
        """Measured over expected bytes, as a running mean; 1 before the first body."""
        return self._measured / self._expected if self._expected else 1.0

    @property
    def due(self) -> bool:
        """Whether the codec should be fitted again."""
        far = self.ratio > 1 + self.tolerance or self.ratio < 1 / (1 + self.tolerance)
        return self.seen >= self.patience and far
