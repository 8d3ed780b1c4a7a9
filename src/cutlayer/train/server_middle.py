"""The server's side of the steps of a round where devices run the last blocks too (model.tail).

It trains the blocks between theirs: forward when activations come, backward when the gradient of
what it made of them does. It is told no label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from cutlayer.errors import FrameError, RunError
from cutlayer.seeds import derive, torch_rng
from cutlayer.train.exchange import ACTIVATIONS, FEATURES, Exchange, Payload
from cutlayer.train.finite import not_finite
from cutlayer.train.server_adapters import ServerPass
from cutlayer.train.server_part import (
    Faults,
    PoolStep,
    ServerPart,
    finite_gradients,
    gradients_of,
)
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.train.u_shape import UNLABELLED, from_rows, to_rows
from cutlayer.wire.codec import ActivationsMessage
from cutlayer.wire.tail import (
    FeatureGradientMessage,
    FeaturesMessage,
    decode_feature_gradient,
    encode_features,
)


@dataclass(frozen=True, eq=False)
class _Pass:
    """Messages that went through the server's blocks together; features [B,T,D] with their graph.

    hidden: what came in, a leaf.
    """

    messages: Sequence[ActivationsMessage]
    hidden: torch.Tensor
    opened: ServerPass
    features: torch.Tensor

    def split(self) -> Sequence[torch.Tensor]:
        """The features of each message, without a graph."""
        sizes = [len(message.hidden) for message in self.messages]
        return torch.split(self.features.detach(), sizes)


class ServerMiddle(ServerPart):
    """See ServerPart. seen: samples that came through the cut; their labels stay with devices."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._passes: list[_Pass] = []
        self._answers: dict[int, FeatureGradientMessage] = {}

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
        if message.num_classes != UNLABELLED or message.labels.dim() != 1:
            raise FrameError(
                f"frame: device {message.device} sent labels of {message.num_classes} classes, "
                "which model.tail keeps on devices: run the same job on both sides"
            )

    def _forward(self, state: PoolStep, frames: Mapping[int, bytes], watch: Stopwatch) -> Faults:
        """Activations through the server's blocks, to a frame of features a device."""
        faults: Faults = {}
        self._passes = []
        for batch in self._batches(self._read_all(state, frames, faults, watch)):
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
        """A pass anew without the devices whose features are not finite."""
        left = []
        for message, part in zip(done.messages, done.split(), strict=True):
            if bool(to_rows(part.cpu(), message.mask).isfinite().all()):
                left.append(message)
            else:
                due = message.device, message.round, message.step
                faults[message.device] = not_finite("features", "not finite", *due)
        return self._through(left) if left else _Pass([], done.hidden, done.opened, done.features)

    def _send(self, state: PoolStep, done: _Pass, faults: Faults, watch: Stopwatch) -> None:
        """Make the frame of each device's features."""
        job = self._job
        for message, part in zip(done.messages, done.split(), strict=True):
            device, step = message.device, message.step
            made = FeaturesMessage(device, message.round, step, to_rows(part.cpu(), message.mask))
            rng = torch_rng(job.seed, device, message.round, "tail-downlink", step)
            with watch.timed("wire"):
                try:
                    (state.replies[device],) = encode_features(
                        [made], job.method.features_down, [rng], derive(job.seed, "rotation")
                    )
                except RunError as fault:  # it does not fit into the bits
                    faults[device] = fault

    def _backward(self, state: PoolStep, frames: Mapping[int, bytes], watch: Stopwatch) -> Faults:
        """The gradients of features back through the server's blocks."""
        faults: Faults = {}
        state.replies, self._answers = {}, {}
        with watch.timed("wire"):
            for device, frame in frames.items():
                try:
                    self._answers[device] = self._read_answer(device, state.step, frame)
                except FrameError as fault:
                    faults[device] = fault
        losses: dict[int, float] = {}
        for one in self._passes:
            for message, gradient in self._finish(one, faults):
                loss = self._answers[message.device].loss
                if self._reply(state, message, loss, gradient, faults, watch):
                    losses[message.device] = loss
        if self._job.method.server_adapter == "in-turn":  # whose pools are of one device
            self.adapters.update(state.step)
        self._passes = []
        state.losses |= {device: losses[device] for device in frames if device in losses}
        return faults

    def _read_answer(self, device: int, step: int, frame: bytes) -> FeatureGradientMessage:
        """The gradient of a frame. Raises FrameError for any but the one due."""
        answer = decode_feature_gradient(frame, max_bytes=self._most_bytes)
        if (answer.device, answer.round, answer.step) != (device, self._round, step):
            raise FrameError(
                f"frame: device {device} sent a gradient of device {answer.device}, round "
                f"{answer.round}, step {answer.step} when that of round {self._round}, step {step} "
                "was due: run the same cutlayer on both sides"
            )
        for one in self._passes:
            for message, part in zip(one.messages, one.split(), strict=True):
                if message.device == device:
                    self._whole(answer, message, part)
                    return answer
        raise FrameError(f"frame: device {device} sent a gradient of features that it did not get")

    def _whole(
        self, answer: FeatureGradientMessage, message: ActivationsMessage, part: torch.Tensor
    ) -> torch.Tensor:
        """The gradient [B,T,D] in the features of a message, zero at padding. Raises FrameError."""
        B, T, D = part.shape
        what = f"the gradient of device {answer.device}"
        return from_rows(answer.rows, (B, T, D), message.mask, what)

    def _finish(
        self, one: _Pass, faults: Faults
    ) -> list[tuple[ActivationsMessage, torch.Tensor | None]]:
        """Add the gradients of those that answered to their adapters.

        Returns each message with its own gradient at the cut, where one is due down.
        """
        due = [m for m in one.messages if m.device in self._answers and m.device not in faults]
        if not due:
            return []
        if len(due) < len(one.messages):
            # The pass mixes devices: have it again without those that are lost.
            one = self._through(due)
        gradients = self._gradients(one)
        if not finite_gradients(gradients):
            faults |= self._without_finite_gradients(due)
            return self._finish(one, faults)
        for message in due:
            self.seen[message.device] += len(message.hidden)
        down, *own = gradients
        self.adapters.add(one.opened, own)
        parts: Sequence[torch.Tensor | None] = [None] * len(due)
        if down is not None:
            parts = torch.split(down, [len(message.hidden) for message in due])
        return list(zip(due, parts, strict=True))

    def _gradients(self, one: _Pass) -> Sequence[torch.Tensor | None]:
        """In what came in and in the adapters; None where nothing is wanted."""
        given = [
            self._whole(self._answers[message.device], message, part)
            for message, part in zip(one.messages, one.split(), strict=True)
        ]
        wanted = [one.hidden, *one.opened.rows.leaves.values()]
        if not one.features.requires_grad:
            return [None] * len(wanted)
        return gradients_of(one.features, wanted, torch.cat(given).to(one.features))

    def _has_finite_gradients(self, message: ActivationsMessage) -> bool:
        return finite_gradients(self._gradients(self._through([message])))
