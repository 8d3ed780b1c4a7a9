"""The server's side of the steps of a round if devices also run the last blocks (model.tail).

It trains the blocks in between: forward when activations come, backward when the gradient of its
features comes. The server learns no labels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from cutlayer.errors import FrameError, RunError
from cutlayer.seeds import torch_rng
from cutlayer.train.exchange import ACTIVATIONS, FEATURES, Exchange, Payload
from cutlayer.train.finite import largest_of, not_finite
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.server_adapters import ServerPass
from cutlayer.train.server_part import PoolStep, ServerPart, gradients_of
from cutlayer.train.server_reading import Faults
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.train.tail_weighing import Passed
from cutlayer.train.u_shape import (
    MARKED,
    UNLABELLED,
    crossing,
    from_rows,
    row_positions,
    to_rows,
)
from cutlayer.train.ways import FEATURE_GRADIENTS, Way
from cutlayer.train.ways import FEATURES as FEATURES_DOWN
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.tail import (
    FeaturesMessage,
    OpenedRows,
    encode_features,
    open_feature_gradient,
    rows_of,
)
from cutlayer.wire.transfer import to_device


@dataclass(frozen=True, eq=False)
class _Pass:
    """Messages that went through the server's blocks together; features [B,T,D] with their graph.

    hidden: the activations that came in, a leaf of the graph.
    """

    messages: Sequence[ActivationsMessage]
    hidden: torch.Tensor
    opened: ServerPass
    features: torch.Tensor

    def split(self) -> Sequence[torch.Tensor]:
        """The features of each message, without a graph."""
        sizes = [len(message.hidden) for message in self.messages]
        return torch.split(self.features.detach(), sizes)


@dataclass(frozen=True, eq=False)
class _Answer:
    """A device's answer: its batch's loss, and the gradient [B,T,D] of the loss in its features."""

    loss: float
    gradient: torch.Tensor


class ServerMiddle(ServerPart):
    """See ServerPart. seen: counts the samples that came through the cut, or the tokens that are
    marked as learnt."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._most_bytes = frame_limit(self._model, self._job.training.batch_size)
        self._passes: list[_Pass] = []
        self._answers: dict[int, _Answer] = {}

    def take(
        self, exchange: Exchange, state: PoolStep, sent: Mapping[int, Payload], watch: Stopwatch
    ) -> Faults:
        """See ServerPart."""
        frames = cast(Mapping[int, bytes], sent)
        if exchange == ACTIVATIONS:
            return self._forward(state, frames, watch)
        return self._backward(state, frames, watch)

    def give(self, exchange: Exchange, state: PoolStep, devices: Sequence[int]) -> dict[int, bytes]:
        """See ServerPart."""
        return state.replies if exchange == FEATURES else super().give(exchange, state, devices)

    def _check_targets(self, message: ActivationsMessage) -> None:
        learnt = self._job.method.tail_tokens == "learnt"
        due = (MARKED, 2) if learnt else (UNLABELLED, 1)
        if (message.num_classes, message.labels.dim()) != due:
            wanted = (
                "one bit for each token is due (method.tail_tokens)" if learnt else "none is due"
            )
            raise FrameError(
                f"frame: device {message.device} sent labels of {message.num_classes} classes, but "
                f"with model.tail labels stay on devices and {wanted}: run the same job on both "
                "sides"
            )
        asked = crossing(message)
        if asked is not None and not bool(asked.any(1).all()):
            what = "in which no token is marked as learnt" if learnt else "that is all padding"
            raise FrameError(
                f"frame: device {message.device} sent a sample {what}: run the same job on both "
                "sides"
            )

    def _forward(self, state: PoolStep, frames: Mapping[int, bytes], watch: Stopwatch) -> Faults:
        """Run activations through the server's blocks, and make each device's frame of features."""
        faults: Faults = {}
        self._passes = []
        for batch in self._batches(self._came(state, frames, faults, watch)):
            done = self._through(batch)
            if not bool(done.features.detach().isfinite().all()):
                done = self._without_infinite(done, faults)
            if done.messages:
                self._passes.append(done)
                self._send(state, done, faults, watch)
        return faults

    def _through(self, messages: Sequence[ActivationsMessage]) -> _Pass:
        hidden, mask, opened, route = self._opened(messages)
        cut = self.decisions[messages[0].device].cut
        features = self._model.middle_forward(hidden, mask, cut, route)
        return _Pass(messages, hidden, opened, features)

    def _without_infinite(self, done: _Pass, faults: Faults) -> _Pass:
        """The pass, done again without the devices whose features are not finite."""
        left = []
        for message, part in zip(done.messages, done.split(), strict=True):
            if bool(to_rows(part, crossing(message)).isfinite().all()):
                left.append(message)
            else:
                due = message.device, message.round, message.step
                faults[message.device] = not_finite("features", "not finite", *due)
        return self._through(left) if left else _Pass([], done.hidden, done.opened, done.features)

    def _send(self, state: PoolStep, done: _Pass, faults: Faults, watch: Stopwatch) -> None:
        """Make the frame of each device's features, all in one call."""
        parts = dict(zip(done.messages, done.split(), strict=True))
        made = [
            FeaturesMessage(
                one.device,
                one.round,
                one.step,
                to_rows(part, crossing(one)),
                positions=self._positions(one, part),
            )
            for one, part in parts.items()
        ]
        with watch.timed("wire"):
            try:
                frames = self._encoded(made)
            except RunError:  # one does not fit into the bits: encode each alone to find it
                for one in made:
                    try:
                        (state.replies[one.device],) = self._encoded([one])
                    except RunError as fault:
                        faults[one.device] = fault
            else:
                devices = [one.device for one in made]
                state.replies |= dict(zip(devices, frames, strict=True))
            for message, part in parts.items():
                if message.device in state.replies:
                    frame = state.replies[message.device]
                    self._note(FEATURES_DOWN, message, part, frame)

    def _encoded(self, made: Sequence[FeaturesMessage]) -> list[bytes]:
        """A frame for each device's features. Raises RunError."""
        seed = self._job.seed
        rngs = [torch_rng(seed, one.device, one.round, "tail-downlink", one.step) for one in made]
        coding = self._coding.ways[FEATURES_DOWN]
        return encode_features(made, coding.codec(self.decisions[made[0].device]), rngs)

    def _positions(self, one: ActivationsMessage, part: torch.Tensor) -> torch.Tensor:
        """Where the tokens of a device's features [B,T,D] stand that cross to its tail."""
        B, T, _ = part.shape
        selected = self.decisions[one.device].tokens is not None
        return row_positions(B, T, crossing(one), self._model.spec.prefix, selected)

    def _note(self, way: Way, one: ActivationsMessage, part: torch.Tensor, frame: bytes) -> None:
        """Take note of what crosses to or from a device's tail [B,T,D]: see `WayCoding.note`."""
        decision = self.decisions[one.device]
        self._coding.ways[way].note(decision, one.device, part, crossing(one), frame)

    def _weigh(
        self, one: ActivationsMessage, features: torch.Tensor, gradient: torch.Tensor
    ) -> None:
        """Take note of a batch that passed a device's tail [B,T,D]: see `TailWeighing`."""
        if self._coding.tail is not None:
            cut, positions = self.decisions[one.device].cut, self._positions(one, features)
            mask = None if one.mask is None else to_device(one.mask, self._model.compute)
            batch = Passed(one.device, cut, one.hidden.detach(), mask, crossing(one), positions)
            self._coding.tail.note(batch, features, gradient)

    def _backward(self, state: PoolStep, frames: Mapping[int, bytes], watch: Stopwatch) -> Faults:
        """Run the gradients of features back through the server's blocks."""
        faults: Faults = {}
        state.replies, self._answers = {}, {}
        with watch.timed("wire"):
            self._read_answers(state.step, frames, faults)
        losses: dict[int, float] = {}
        for one in self._passes:
            trained = [
                (message, self._answers[message.device].loss, gradient)
                for message, gradient in self._finish(one, faults)
            ]
            losses |= self._reply(state, trained, faults, watch)
        if self._job.method.server_adapter == "in-turn":  # whose pools are of one device
            self.adapters.update(state.step)
        self._passes = []
        state.losses |= {device: losses[device] for device in frames if device in losses}
        return faults

    def _read_answers(self, step: int, frames: Mapping[int, bytes], faults: Faults) -> None:
        """The answers that came: all checked, then all decoded in one call."""
        opened: dict[int, OpenedRows] = {}
        for device, frame in frames.items():
            try:
                opened[device] = self._open_answer(device, step, frame)
            except FrameError as fault:
                faults[device] = fault
        given = {
            message.device: (message, part)
            for one in self._passes
            for message, part in zip(one.messages, one.split(), strict=True)
        }
        due = {device: one for device, one in opened.items() if device in given}
        faults |= {
            device: FrameError(
                f"frame: device {device} sent a gradient of features that it did not get"
            )
            for device in opened
            if device not in given
        }
        if not due:
            return
        codec = self._coding.ways[FEATURE_GRADIENTS].codec_at(self.decisions[next(iter(due))].cut)
        positions = [self._positions(*given[device]) for device in due]
        rows = rows_of(list(due.values()), positions, codec, self._model.compute)
        for (device, one), own in zip(due.items(), rows, strict=True):
            message, part = given[device]
            try:
                answer = self._answer(message, part, one, own)
            except FrameError as fault:
                faults[device] = fault
            else:
                self._answers[device] = answer
                self._note(FEATURE_GRADIENTS, message, answer.gradient, frames[device])
                self._weigh(message, part, answer.gradient)

    def _open_answer(self, device: int, step: int, frame: bytes) -> OpenedRows:
        """A frame with a gradient of features. Raises FrameError if it is not the expected one."""
        opened = open_feature_gradient(frame, max_bytes=self._most_bytes)
        if opened.due != (device, self._round, step):
            number, round, at = opened.due
            raise FrameError(
                f"frame: device {device} sent a gradient of device {number}, round {round}, step "
                f"{at} instead of that of round {self._round}, step {step}: run the same cutlayer "
                "on both sides"
            )
        return opened

    def _answer(
        self,
        message: ActivationsMessage,
        part: torch.Tensor,
        opened: OpenedRows,
        rows: torch.Tensor | FrameError,
    ) -> _Answer:
        """What a device answered to the features [B,T,D] that it got. Raises FrameError."""
        if isinstance(rows, FrameError):
            raise rows
        B, T, D = part.shape
        what = f"the gradient of device {message.device}"
        return _Answer(opened.loss, from_rows(rows, (B, T, D), crossing(message), what))

    def _finish(
        self, one: _Pass, faults: Faults
    ) -> list[tuple[ActivationsMessage, torch.Tensor | None]]:
        """Add the gradients of the devices that answered to their adapters.

        Returns each message with its gradient at the cut, if one is to go down.
        """
        due = [m for m in one.messages if m.device in self._answers and m.device not in faults]
        if not due:
            return []
        if len(due) < len(one.messages):
            # The pass mixes devices: do it again without those that are lost.
            one = self._through(due)
        gradients = self._gradients(one)
        if not math.isfinite(largest_of(gradients)):
            faults |= self._without_finite_gradients(due)
            return self._finish(one, faults)
        for message in due:
            if message.num_classes == MARKED:
                self.seen[message.device] += int(message.labels.sum())
            else:
                self.seen[message.device] += len(message.hidden)
        down, *own = gradients
        self.adapters.add(one.opened, own, due[0].step)
        parts: Sequence[torch.Tensor | None] = [None] * len(due)
        if down is not None:
            parts = torch.split(down, [len(message.hidden) for message in due])
        return list(zip(due, parts, strict=True))

    def _gradients(self, one: _Pass) -> Sequence[torch.Tensor | None]:
        """The gradients in the activations that came in and in the adapters; None if not needed."""
        given = [self._answers[message.device].gradient for message in one.messages]
        wanted = [one.hidden, *one.opened.rows.leaves.values()]
        if not one.features.requires_grad:
            return [None] * len(wanted)
        return gradients_of(one.features, wanted, torch.cat(given).to(one.features))

    def _has_finite_gradients(self, message: ActivationsMessage) -> bool:
        return math.isfinite(largest_of(self._gradients(self._through([message]))))
