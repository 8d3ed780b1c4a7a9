"""One round of training: the only training loop, for every method, simulated or networked.

A device is lost for the round (`RoundResult.lost`) if the link has no answer from it, or if what it
sent is refused; `Link.reject` then disconnects it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.round_shape import RoundShape, Traffic, batch_sizes
from cutlayer.errors import CutlayerError, FrameError
from cutlayer.job import Job
from cutlayer.model.lora import Adapter
from cutlayer.train.cohort import make_pools
from cutlayer.train.exchange import (
    ACTIVATIONS,
    BASIS,
    FEATURE_GRADIENT,
    FEATURES,
    Exchange,
    Payload,
)
from cutlayer.train.link import Link, Started
from cutlayer.train.pool_size import naming_what_fits, pool_size
from cutlayer.train.result import RoundResult, Trained
from cutlayer.train.secure_upload import sum_uploads
from cutlayer.train.server import Server
from cutlayer.train.server_part import PoolStep

OnStep = Callable[[RoundResult, int, int], None]
"""Called after each step with the round so far, the steps done and the number of steps."""

FindLate = Callable[[RoundShape, Sequence[int]], Sequence[int]]
"""Returns the devices of a turn that came too late, given the round with their uploads."""

TrainTurn = Callable[["Turn"], dict[int, Trained]]
"""Trains the devices of a turn, adds to its result, and returns the devices that were not lost."""


def train_devices(turn: "Turn") -> dict[int, Trained]:
    """Make all steps of a turn: the server's part in this process, the devices over the link."""
    return turn.train()


def train_round(
    job: Job,
    round: int,
    decisions: Mapping[int, Decision],
    link: Link,
    server: Server,
    on_step: OnStep | None = None,
    find_late: FindLate | None = None,
    train_turn: TrainTurn = train_devices,
) -> RoundResult:
    """Train one round with the devices of `decisions`; the server then has the new adapter.

    train_turn: makes the steps of a turn. Raises RunError when a loss is not a number, unless the
    link disconnects such a device.
    """
    result = RoundResult(round, dict(decisions))
    sequential = job.method.order == "sequential"
    turns = [[device] for device in decisions] if sequential else [list(decisions)]
    start = time.process_time()
    for number, turn in enumerate(turns):
        Turn(turn, (number, len(turns)), link, server, result, on_step).run(find_late, train_turn)
    result.cpu_seconds += time.process_time() - start
    return result


@dataclass
class Turn:
    """Devices that train side by side: all of a round, or one device if they take turns.

    place: the turn's number and how many turns there are. change: the mean change of the devices'
    adapters, if a secure sum tells the server only this.
    """

    devices: list[int]
    place: tuple[int, int]
    link: Link
    server: Server
    result: RoundResult
    on_step: OnStep | None = None
    change: Adapter | None = field(default=None, init=False)

    def run(self, find_late: FindLate | None, train_turn: TrainTurn) -> None:
        """Train, and average the adapters of the devices in time; late devices do not count."""
        method, result = self.server.job.method, self.result
        trained = train_turn(self)
        late = list(find_late(result.shape, list(trained))) if find_late else []
        result.late += late
        in_time = {device: one for device, one in trained.items() if device not in late}
        if late and in_time and method.split and method.server_adapter != "averaged":
            # Late devices cannot be taken out of the one shared adapter: train again without them.
            decisions = {device: result.decisions[device] for device in in_time}
            scratch = RoundResult(result.round, decisions)
            again = replace(self, devices=list(in_time), result=scratch, on_step=None)
            again.run(None, train_turn)
        elif in_time and method.aggregate != "none":
            with result.watch.timed("adapters"):
                result.clipped |= self.server.collect(in_time, self.change)

    def train(self) -> dict[int, Trained]:
        """All steps, and what devices trained sent or summed up; returns what came through."""
        trained = self.train_apart()
        if self.sums and trained:
            self.change = self.sum_up(trained)
        return trained

    @property
    def sums(self) -> bool:
        """Whether devices sum up what they trained, so that none of them sends it up."""
        decisions = (self.result.decisions[device] for device in self.devices)
        return self.server.job.sums_securely and any(map(self.server.device_names, decisions))

    def train_apart(self) -> dict[int, Trained]:
        """As `train`, up to the secure sum of devices that sum up what they trained."""
        started = self._train()
        self.result.clipped_tokens |= self.server.part.clipped_tokens
        uploads: dict[int, Adapter] = {}
        if self.sums:
            self._refuse_not_finite(started)
        else:
            uploads = self._upload(started)
        self._refuse_far(started, uploads)
        adapters = self.server.part.adapters
        return {
            device: Trained(
                self._weight(device, one), uploads.get(device, {}), adapters.after_cut(device)
            )
            for device, one in started.items()
        }

    def _train(self) -> dict[int, Started]:
        """Make all steps of the turn; returns the devices that were not lost."""
        with self.result.watch.timed("adapters"):
            started = self._begin()
        steps = max((one.steps for one in started.values()), default=0)
        job, model = self.server.job, self.server.model
        size = pool_size(job, model)
        for step in range(steps):
            at_it = [device for device, one in started.items() if step < one.steps]
            if not at_it:  # the devices with the most steps are lost
                break
            for pool in make_pools(self.result.decisions, at_it, size):
                with naming_what_fits(job, model, len(pool)):
                    lost = self._train_pool(step, pool)
                for device in lost:
                    self.result.lost.append(device)
                    del started[device]
            with self.result.watch.timed("server"):
                self.server.part.adapters.update(step)
            if self.on_step:
                number, turns = self.place
                self.on_step(self.result, number * steps + step + 1, turns * steps)
        return started

    def _begin(self) -> dict[int, Started]:
        result, server = self.result, self.server
        decisions = {device: result.decisions[device] for device in self.devices}
        openings = server.openings(result.round, decisions, self.link)
        for device, opening in openings.items():
            result.traffic[device].adapter_down += len(opening.adapter or b"")
            result.traffic[device].coding_down += len(opening.basis or b"")
            result.traffic[device].coding_down += len(opening.held or b"")
            result.traffic[device].coding_down += len(opening.change_basis or b"")
            result.traffic[device].coding_down += sum(map(len, opening.ways.values()))
        started = self.link.begin(result.round, decisions, openings)
        training, method = server.job.training, server.job.method
        result.batches |= {
            device: batch_sizes(one.samples, training) for device, one in started.items()
        }
        if not method.split or method.server_adapter == "averaged":
            # If the order does not matter, batches of equal size are put next to each other.
            started = dict(sorted(started.items(), key=lambda item: -item[1].samples))
        steps = {device: one.steps for device, one in started.items()}
        server.begin(result.round, {device: decisions[device] for device in steps}, steps)
        result.lost += [device for device in self.devices if device not in started]
        return started

    def _train_pool(self, step: int, devices: Sequence[int]) -> list[int]:
        """Do the exchanges of a step with devices of one cut; returns the devices that are lost."""
        result, part = self.result, self.server.part
        state, left = PoolStep(step), devices
        carried: list[tuple[Exchange, Mapping[int, Payload]]] = []
        for exchange in part.exchanges(devices[0], step):
            if exchange.up:
                with result.watch.timed("device"):
                    sent = self.link.receive(exchange, step, left, result.watch)
                with result.watch.timed("server"):
                    faults = part.take(exchange, state, sent, result.watch)
                for device, fault in faults.items():
                    self.link.reject(device, fault)
                left = [device for device in left if device in sent and device not in faults]
            else:
                with result.watch.timed("server"):
                    sent = part.give(exchange, state, left)
                if sent:
                    with result.watch.timed("device"):
                        self.link.send(exchange, step, sent, result.watch)
            carried.append((exchange, sent))
        for device, loss in state.losses.items():
            result.losses[device].append(loss)
            if device in state.computed:
                result.computed[device].append(state.computed[device])
            for exchange, sent in carried:
                payload = sent.get(device)
                if isinstance(payload, bytes):  # a loss is a number, not a frame
                    _count(result.traffic[device], exchange, payload)
        return [device for device in devices if device not in state.losses]

    def _weight(self, device: int, started: Started) -> int:
        """A device's weight in the average: how many samples of an epoch came through the cut.

        If the model is not cut, it is the samples that the device says it has; a network link has
        bounded that number.
        """
        if not self.server.job.method.split:
            return started.samples
        seen = self.server.part.seen[device]
        return max(1, seen // self.server.job.training.local_epochs)

    def _refuse_far(self, started: dict[int, Started], trained: dict[int, Adapter]) -> None:
        """Take devices out of a round whose adapters moved too far to be averaged."""
        if self.link.believed or self.server.job.method.aggregate == "none":
            return
        for device, fault in self.server.far_updates(list(started), trained).items():
            self._lose(device, fault, started)
            trained.pop(device, None)

    def _refuse_not_finite(self, started: dict[int, Started]) -> None:
        """Take devices out of a round whose adapter on the server is not finite."""
        for device, fault in self.server.part.not_finite().items():
            if device in started:
                self._lose(device, fault, started)

    def _lose(self, device: int, fault: CutlayerError, started: dict[int, Started]) -> None:
        self.link.reject(device, fault)
        self.result.lost.append(device)
        del started[device]

    def sum_up(self, trained: dict[int, Trained]) -> Adapter | None:
        """What the devices changed in the mean; those that are not in it leave `trained`."""
        server, result = self.server, self.result
        weights = {device: one.weight for device, one in trained.items()}
        with result.watch.timed("adapters"):
            due = server.due(result.decisions[next(iter(trained))])
            quorum = server.job.privacy.secure_quorum
            summed = sum_uploads(self.link, result.round, weights, due, quorum)
        for device, size in summed.down.items():
            result.traffic[device].adapter_down += size
        for device, size in summed.up.items():
            result.traffic[device].adapter_up += size
        # Devices of this process are lost only by devices.drop_out; if too few are left for a sum,
        # that is the fault of none of them.
        dropped_out = self.link.believed and bool(self.result.lost)
        for device in [device for device in trained if device not in summed.devices]:
            fault = summed.faults.get(device, None if dropped_out else summed.why)
            if fault is not None and device not in summed.silent:
                self.link.reject(device, fault)
            result.lost.append(device)
            del trained[device]
        for device in trained.keys() & summed.faults.keys():  # lied after its numbers had come
            self.link.reject(device, summed.faults[device])
        return summed.change

    def _upload(self, started: dict[int, Started]) -> dict[int, Adapter]:
        """The adapters that devices trained; a device that fails is taken out of `started`."""
        server, result = self.server, self.result
        if server.job.method.aggregate == "none":
            return {}
        self._refuse_not_finite(started)
        training = [d for d in started if server.device_names(result.decisions[d])]
        with result.watch.timed("adapters"):
            frames = self.link.upload(training)
            trained = {}
            for device, frame in frames.items():
                try:
                    trained[device] = server.read_upload(device, frame)
                    result.traffic[device].adapter_up += len(frame)
                except FrameError as fault:
                    self.link.reject(device, fault)
        for device in training:
            if device not in trained:
                result.lost.append(device)
                del started[device]
        return trained


def _count(traffic: Traffic, exchange: Exchange, frame: bytes) -> None:
    if exchange == ACTIVATIONS:
        traffic.activations += len(frame)
    elif exchange == FEATURE_GRADIENT:
        traffic.feature_gradients += len(frame)
    elif exchange == FEATURES:
        traffic.features += len(frame)
    elif exchange == BASIS:
        traffic.coding_down += len(frame)
    else:
        traffic.gradients += len(frame)
