"""What devices sent up in a step as activations to train on: checked, decoded and bounded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import torch

from cutlayer.allocate.decision import Decision
from cutlayer.errors import CutlayerError, FrameError
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.train.batches import joined
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.server_changes import add_changes, decode_changes
from cutlayer.train.server_coding import ServerCoding
from cutlayer.train.server_frames import Part, check_activations, read_visit
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.opened import Opened, activations_of, open_activations
from cutlayer.wire.transfer import to_device

Faults = dict[int, CutlayerError]
"""Why devices fail, by device."""


class ActivationReader:
    """Reads the frames of activations of a round's devices.

    coding: how they come. decisions: of the devices that have started. check_targets: raises
    FrameError for targets of another task. clipped_tokens: of each device, those that were scaled
    down (trust.clip_activations).
    """

    def __init__(
        self,
        job: Job,
        model: CutModel,
        coding: ServerCoding,
        round: int,
        decisions: Mapping[int, Decision],
        check_targets: Callable[[ActivationsMessage], object],
    ) -> None:
        self._job, self._model, self._coding = job, model, coding
        self._round, self._decisions = round, decisions
        self._check_targets = check_targets
        self._most_bytes = frame_limit(model, job.training.batch_size)
        self.clipped_tokens: dict[int, int] = {}

    def read(
        self, step: int, frames: Mapping[int, bytes], faults: Faults, computed: dict[int, int]
    ) -> list[ActivationsMessage]:
        """The activations of frames: all checked, then all decoded in one call, then bounded.

        faults: gets why some of them will not do. computed: gets how many samples of each device
        came now, where it may name others.
        """
        came: dict[int, list[Part]] = {}
        for device, frame in frames.items():
            try:
                came[device] = self._parts(device, step, frame)
            except FrameError as fault:
                faults[device] = fault
        decoded = iter(self._decoded([part for parts in came.values() for part in parts]))
        messages = []
        for device, parts in came.items():
            own = list(islice(decoded, len(parts)))
            try:
                messages.append(self._bounded(self._message((device, step), parts, own, computed)))
            except FrameError as fault:
                faults[device] = fault
        return messages

    def _decoded(self, parts: Sequence[Part]) -> list[ActivationsMessage | FrameError]:
        """What the frames of devices of a pool hold: all of a kind are decoded in one call."""
        if not parts:
            return []
        cut = self._decisions[parts[0].opened.header.device].cut  # the devices of a pool have one
        opened, codec = [part.opened for part in parts], self._coding.codec(cut)
        if self._coding.changes is None:
            return activations_of(opened, codec, self._model.compute)
        return decode_changes(opened, codec, self._coding.changes.codec(cut))

    def _parts(self, device: int, step: int, frame: bytes) -> list[Part]:
        """The frames of activations in what a device sent. Raises FrameError for any but those due.

        One of its batch, or of visits one a sample, sent now or before.
        """
        if device not in self._decisions:
            raise FrameError(
                f"frame: device {device} sent activations but is not in the cohort of this round: "
                "let it join the next"
            )
        due, cut = (device, self._round, step), self._decisions[device].cut
        by_sample = self._coding.cache is not None or self._coding.changes is not None
        if not by_sample or step < self._coding.plain_steps(cut):
            return [Part(self._check(frame, due), frame)]
        visit = read_visit(frame, due, self._job, self._most_bytes)
        parts = []
        for sample, sent in visit.frames.items():
            if sent is not None:
                parts.append(Part(self._check(sent, due, single=True), sent, sample))
                continue
            held = None
            if self._coding.cache is not None:
                held = self._coding.cache.find(device, sample)
            if held is None:
                raise FrameError(
                    f"frame: device {device} names its sample {sample}, which it never sent: run "
                    "the same cutlayer on both sides"
                )
            parts.append(Part(open_activations(held), None, sample))
        return parts

    def _check(self, frame: bytes, due: tuple[int, int, int], single: bool = False) -> Opened:
        """One frame of activations, checked. single: the frame holds one sample."""
        decision, spec = self._decisions[due[0]], self._model.spec
        opened = check_activations(frame, due, decision, spec, self._job, self._most_bytes, single)
        if opened.change and (self._coding.changes is None or not single):
            raise FrameError(
                f"frame: device {due[0]} sent what changed of its activations where they were due "
                "whole: run the same job on both sides"
            )
        return opened

    def _message(
        self,
        due: tuple[int, int],
        parts: Sequence[Part],
        decoded: Sequence[ActivationsMessage | FrameError],
        computed: dict[int, int],
    ) -> ActivationsMessage:
        """A device's batch of a step, of what came and what was held. Raises FrameError."""
        device, step = due
        messages, decision = [], self._decisions[device]
        for part, message in zip(parts, decoded, strict=True):
            if isinstance(message, FrameError):
                raise message
            messages.append(message)
            if part.frame is not None:
                self._check_targets(message)
        if self._coding.changes is not None:
            batch = add_changes(self._coding, decision, parts, messages)
            return replace(batch, hidden=to_device(batch.hidden, self._model.compute))
        for part, message in zip(parts, messages, strict=True):
            if part.frame is None:
                continue
            self._coding.note(message, part.frame, decision)
            if part.sample is not None:
                self._coding.keep(decision, device, part.sample, part.frame)
        if self._coding.cache is None:
            return messages[0]
        if parts[0].sample is None:
            computed[device] = len(messages[0].hidden)
            return messages[0]
        computed[device] = sum(part.frame is not None for part in parts)
        return joined(messages, (device, self._round, step))

    def _bounded(self, message: ActivationsMessage) -> ActivationsMessage:
        """Activations with no token longer than the job allows."""
        most = self._job.trust.clip_activations
        if most is None:
            return message
        norms = torch.linalg.vector_norm(message.hidden, dim=2, keepdim=True, dtype=torch.float64)
        longer = norms > most
        if not longer.any():
            return message
        before = self.clipped_tokens.get(message.device, 0)
        self.clipped_tokens[message.device] = before + int(longer.sum())
        scaled = message.hidden * (most / norms)
        hidden = torch.where(longer, scaled.to(message.hidden), message.hidden)
        return replace(message, hidden=hidden)
