"""The start of a round on a device: frames from its server, and the samples the server holds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cutlayer.wire.visit import Held, decode_held

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Opening:
    """The frames that the server sends a device at a round's start.

    adapter: None: the device goes on with the one it has. basis: None: it has the server's, or
    there is none yet. plain_steps: the first steps, sent as `coding.FITTING` says; the basis comes
    down before the step after them. 0: there is a basis, or the codec needs none. held: which of
    the device's samples the server holds; None: every sample is sent. ways: the bases of what
    else crosses, by the names in ways.py, that the device lacks. change_basis: the basis of
    changes, where the device lacks it. change_steps: the first steps whose changes go up in 4 bits,
    after which samples go up whole until there is a basis of changes; None: all go up whole.
    held_digest: of what the server holds of samples that go up as changes (see `ChangeBuffers`);
    None: the job has no changes.
    """

    adapter: bytes | None = None
    basis: bytes | None = None
    plain_steps: int = 0
    held: bytes | None = None
    ways: Mapping[str, bytes] = field(default_factory=dict)
    change_basis: bytes | None = None
    change_steps: int | None = None
    held_digest: int | None = None


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
