"""A device's side of change coding (see change_coding.py): which samples go up as changes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from cutlayer.errors import FrameError
from cutlayer.train.change_buffers import ChangeBuffers
from cutlayer.wire.change import as_change
from cutlayer.wire.codecs.seam import Codec
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.opened import activations_of, open_activations
from cutlayer.wire.visit import decode_held

Indices = NDArray[np.int64]


class DeviceChanges:
    """What a device holds of its samples, from round to round.

    It takes 4 bytes a value of activations, for no more samples than the server has room for.
    """

    def __init__(self) -> None:
        self._buffers = ChangeBuffers()
        self._steps: int | None = None

    @property
    def digest(self) -> int:
        """Of what the device holds; see `ChangeBuffers.digest`."""
        return self._buffers.digest

    def begin(self, held: bytes, digest: int, steps: int | None) -> None:
        """Start a round. held, digest: of what the server holds; where this device holds anything
        else, as after either was started again, its samples go up whole. steps: see `Opening`.
        Raises FrameError.
        """
        told = decode_held(held)
        self._buffers.begin(told.room_bytes, told.samples)
        if self._buffers.digest != digest or set(self._buffers.samples) != told.samples:
            self._buffers.forget()
        self._steps = steps

    def are_plain(self, step: int) -> bool:
        """Whether changes of a step go up in 4 bits."""
        return self._steps is not None and step < self._steps

    def split(
        self, step: int, samples: Indices, messages: Sequence[ActivationsMessage], fitted: bool
    ) -> tuple[dict[int, ActivationsMessage], dict[int, ActivationsMessage]]:
        """By number, the samples of a step that go up whole, and the changes of the others.

        messages: of one sample each. fitted: whether the device has what it encodes changes with.
        """
        due = self._steps is not None and (fitted or self.are_plain(step))
        whole, changes = {}, {}
        for number, message in zip(map(int, samples), messages, strict=True):
            hidden = message.hidden.detach().to("cpu", torch.float32)
            held = self._buffers.find(number)
            if held is None or not due:
                whole[number] = replace(message, hidden=hidden)
            else:
                changes[number] = replace(message, hidden=hidden - held)
        return whole, changes

    def sent(
        self,
        whole: Iterable[tuple[int, bytes]],
        changes: Iterable[tuple[int, bytes]],
        codecs: tuple[Codec, Codec],
    ) -> dict[int, bytes]:
        """The frames of samples by number, those of changes marked; what the server makes of them
        is held from now on. codecs: of whole activations and of changes.
        """
        frames = {}
        for number, frame in whole:
            frames[number] = frame
            self._buffers.keep(number, _decoded(frame, codecs[0]))
        for number, frame in changes:
            frames[number] = as_change(frame)
            held = self._buffers.find(number)
            assert held is not None
            self._buffers.keep(number, held + _decoded(frame, codecs[1]))
        return frames


def _decoded(frame: bytes, codec: Codec) -> torch.Tensor:
    """The activations [T, D] of one sample, as the server decodes them."""
    (message,) = activations_of([open_activations(frame)], codec)
    if isinstance(message, FrameError):
        raise message
    return message.hidden[0]
