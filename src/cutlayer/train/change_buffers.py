"""What one end of the uplink holds of a device's samples, where activations go up as changes.

Device and server hold the same numbers of each sample: what the server made of the sample's last
visit. They add the same change to it, in the same float32 arithmetic, so that both stay equal bit
by bit. The digest that travels at a round's start shows it where they do not, as after a restart.
"""

import zlib
from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor


class ChangeBuffers:
    """A device's samples by number, [T, D] float32 each, on the CPU.

    room_bytes: for samples that have no place yet. Both ends give places in the order in which
    samples come, so they hold the same ones; what finds no room is sent whole each time.
    """

    def __init__(self) -> None:
        self.room_bytes = 0
        self._held: dict[int, Tensor] = {}
        self._checks: dict[int, int] = {}
        self._places: set[int] = set()

    def begin(self, room_bytes: int, places: Iterable[int] | None = None) -> None:
        """Start a round with room for more samples.

        places: of the samples that have one; None: of those that are held.
        """
        self.room_bytes = room_bytes
        self._places = set(self._held if places is None else places)

    def keep(self, sample: int, hidden: Tensor) -> None:
        """Hold what a sample's activations [T, D] became, if it has a place or finds room."""
        if sample not in self._places:
            size = _size(hidden)
            if size > self.room_bytes:
                return
            self.room_bytes -= size
            self._places.add(sample)
        self._held[sample] = hidden
        self._checks[sample] = zlib.crc32(hidden.contiguous().numpy().tobytes())

    def find(self, sample: int) -> Tensor | None:
        """What is held of a sample; None for nothing."""
        return self._held.get(sample)

    def forget(self) -> None:
        """Drop all samples; their places stay theirs until the next round."""
        self._held.clear()
        self._checks.clear()

    @property
    def samples(self) -> Mapping[int, Tensor]:
        """What is held, by the sample's number."""
        return self._held

    @property
    def used_bytes(self) -> int:
        """What the samples that are held take."""
        return sum(map(_size, self._held.values()))

    @property
    def digest(self) -> int:
        """A number of 32 bits that differs, but for one case in 4 billion, where a bit does."""
        pairs = np.array(sorted(self._checks.items()), "<i8")
        return zlib.crc32(pairs.tobytes())


def _size(hidden: Tensor) -> int:
    return hidden.numel() * hidden.element_size()
