"""The start of a round on a device: frames from its server, and the samples the server holds."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutlayer.wire.visit import Held, decode_held

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Opening:
    """The frames that the server sends a device at a round's start.

    adapter: None if the device goes on with the one it has. basis: None if the device already has
    the server's, or there is none yet. plain_steps: how many first steps are sent as
    `coding.FITTING` says; the basis comes down before the step after them. 0 if there is a basis or
    the codec needs none. held: which of the device's samples the server holds; None if every sample
    is sent. gradient_basis: None if the device already has the server's, or there is none yet.
    """

    adapter: bytes | None = None
    basis: bytes | None = None
    plain_steps: int = 0
    held: bytes | None = None
    gradient_basis: bytes | None = None


class HeldSamples:
    """Which of a device's samples the server holds, as far as the device knows."""

    def __init__(self, frame: bytes | None = None) -> None:
        """frame: `Opening.held`; None: the server holds no sample. Raises FrameError."""
        held = Held(frozenset(), 0) if frame is None else decode_held(frame)
        self._held, self._room = set(held.samples), held.room_bytes

    def to_send(self, samples: Indices) -> Indices:
        """The numbers out of `samples` that the server does not hold."""
        return samples[[int(one) not in self._held for one in samples]]

    def sent(self, frames: Iterable[tuple[int, bytes]]) -> None:
        """Note samples that were sent: the server keeps those that fit into its free room."""
        for one, frame in frames:
            if len(frame) <= self._room:
                self._room -= len(frame)
                self._held.add(one)
