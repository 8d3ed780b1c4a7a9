"""Times a round in a world: when each stage of its shape happens, and the joules it takes.

The planner uses it for a planned round, the virtual clock for one that happened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cutlayer.allocate.decision import Decision, Setting, serves, setting_of
from cutlayer.allocate.round_shape import Ints, RoundShape, Traffic, batch_sizes
from cutlayer.job import Job
from cutlayer.model.cost import Cost
from cutlayer.model.families import ModelSpec
from cutlayer.planning.known.method_costs import device_part, flops, server_part, tail_part
from cutlayer.planning.known.planning_input import PlanningInput, RoundDecisions
from cutlayer.seeds import numpy_rng
from cutlayer.train.cohort import make_pools, pool_of
from cutlayer.train.reuse import holds_all_after_a_visit, reuses
from cutlayer.world import clock, energy
from cutlayer.world.fleet import Fleet
from cutlayer.world.packet_loss import lateness_s
from cutlayer.world.timeline import Durations, Stage, Timeline, durations
from cutlayer.world.units import Array
from cutlayer.world.world import World, WorldState

_NAME = 0.01
"""Bytes to name a sample, as a share of the bytes to send it: about 5 of about 500."""


def planned_shape(
    round: int,
    known: PlanningInput,
    decided: RoundDecisions,
    visited: Mapping[int, Setting] | None = None,
) -> RoundShape:
    """The round as expected: no device is lost and frames are as long as computed.

    visited: the devices whose samples the server holds, and the setting at which it holds them. The
    plan ignores that the server may lack room for them, and that the first samples, to which a
    basis is fitted, are sent in 4 bits. If a sample has several versions, every round counts as
    sending all of its samples.
    """
    # Devices with the same setting are counted together.
    alike: dict[tuple[object, ...], tuple[Decision, list[int]]] = {}
    for device, one in decided.decisions.items():
        same = (one.cut, one.tokens, one.bits_up, one.bits_down, one.rate_bits, one.precision)
        alike.setdefault(same, (one, []))[1].append(device)
    steps: dict[int, tuple[int, ...]] = {}
    traffic, batches, computed = {}, {}, {}
    training, names = known.job.training, reuses(known.job, known.loads.spec.modality)
    names = names and holds_all_after_a_visit(known.job)
    for one, devices in alike.values():
        loads = known.loads.take(np.array([known.place[device] for device in devices]))
        adapter = int(loads.adapter_bits(one.cut) / 8)
        up = back = np.zeros(len(devices))
        features, answers = (bits / 8 for bits in loads.features_bits(one.cut, one.tokens))
        if known.job.method.split:
            setting = setting_of(one, known.job.method)
            sent = setting.cut, setting.tokens, setting.bits
            up = loads.activations_bits(*sent) / 8
            if names:
                there = [(visited or {}).get(device) for device in devices]
                held = np.array([serves(one, setting, known.job.method) for one in there])
                up = (
                    np.where(
                        held,
                        loads.visit_bits(*sent, first=False),
                        loads.visit_bits(*sent, first=True),
                    )
                    / 8
                )
            back = loads.gradient_bits(one.cut, one.tokens, one.bits_down) / 8
        held_samples = loads.samples_per_epoch.astype(np.int64).tolist()
        sizes = [one.astype(np.int64).tolist() for one in (up, back, features, answers)]
        for at, (device, *each, samples) in enumerate(
            zip(devices, *sizes, held_samples, strict=True)
        ):
            traffic[device] = Traffic(each[0], each[1], adapter, adapter, 0, each[2], each[3])
            if samples not in steps:
                steps[samples] = batch_sizes(samples, training)
            batches[device] = steps[samples]
            if names:
                epoch = len(batches[device]) // training.local_epochs
                first = () if held[at] else batches[device][:epoch]
                computed[device] = (*first, *[0] * (len(batches[device]) - len(first)))
    return RoundShape(round, decided.decisions, batches, traffic, computed)


@dataclass(frozen=True, eq=False)
class TimedRound:
    """A round's shape in a world; fleet and state are those of the devices in `shape.trained`.

    state: None if one party holds all the data, so that there is no radio.
    """

    job: Job
    spec: ModelSpec
    world: World
    fleet: Fleet
    state: WorldState | None
    shape: RoundShape

    def timeline(self) -> Timeline:
        """When each stage happens, by device in the order of `shape.trained`."""
        deadline, trained = self.world.settings.deadline_s, self.shape.trained
        if self.job.method.order == "sequential":
            return clock.sequential(self._durations(), deadline)
        place = {device: at for at, device in enumerate(trained)}
        pools = make_pools(self.shape.decisions, trained, pool_of(self.job))
        # Devices that run the whole model wait for no server, nor for each other.
        serving = self.world.settings.serving if self.job.method.split else "unlimited"
        return clock.parallel(
            self._durations(),
            serving,
            deadline,
            [[place[device] for device in pool] for pool in pools],
        )

    def late(self, timeline: Timeline) -> list[int]:
        """The devices that miss the deadline, or leave coverage before they are done."""
        if self.state is None:
            return []
        late = timeline.late | (timeline.finish_s > self.state.stay_s)
        return [device for device, missed in zip(self.shape.trained, late, strict=True) if missed]

    def joules(self, timeline: Timeline) -> dict[int, float]:
        """Joules of each device, for what the job's world counts."""
        if self.job.method.pooled:
            return {}
        decisions = self._decisions
        samples = self.shape.computed_table().sum(axis=0)
        parts = self._device_parts(decisions)
        forward = samples * self._forward_flops(decisions, parts)
        backward = samples * np.array([part.backward_flops for part in parts])
        if self.job.has_tail:  # it runs all samples, those that the server held too
            every, tails = self.shape.batch_table().sum(axis=0), self._tails(decisions)
            forward = forward + every * np.array([tail.forward_flops for tail in tails])
            backward = backward + every * np.array([tail.backward_flops for tail in tails])
        sending: tuple[Stage, ...] = ("uplink", "tail_uplink", "upload")
        spent = energy.round_j(
            self.fleet,
            self.world.settings.energy,
            np.array([one.power_w or 0.0 for one in decisions]),
            sum((timeline.busy_s(stage) for stage in sending), np.zeros(len(decisions))),
            forward,
            backward,
        )
        return dict(zip(self.shape.trained, spent.tolist(), strict=True))

    def _tails(self, decisions: list[Decision]) -> list[Cost]:
        """What each device runs of the model's last blocks, where the job has a tail."""
        found = []
        for one in decisions:
            tail = tail_part(self.job, self.spec, one.cut, one.tokens)
            assert tail is not None
            found.append(tail)
        return found

    def _device_parts(self, decisions: Sequence[Decision]) -> list[Cost]:
        """What each device runs, looked up once for each cut."""
        cuts = dict.fromkeys(one.cut for one in decisions)
        parts = {cut: device_part(self.job, self.spec, cut) for cut in cuts}
        return [parts[one.cut] for one in decisions]

    def _forward_flops(self, decisions: Sequence[Decision], parts: Sequence[Cost]) -> Array:
        """FLOPs [M] of a sample in float32 that take each device as long as its blocks do in the
        precision decided for it."""
        speed, whole = self.world.settings.fleet.speed, [part.forward_flops for part in parts]
        return np.array(
            [
                flops if one.precision == "float32" else flops / speed(one.precision, one.cut)
                for one, flops in zip(decisions, whole, strict=True)
            ]
        )

    @property
    def _decisions(self) -> list[Decision]:
        return [self.shape.decisions[device] for device in self.shape.trained]

    def _durations(self) -> Durations:
        """Seconds of each stage of each step; FLOPs and bytes go in proportion to its samples."""
        decisions, samples = self._decisions, self.shape.batch_table()
        steps = (samples > 0).sum(axis=0)
        job, spec, settings = self.job, self.spec, self.world.settings
        # Many devices share a setting: its cost is looked up once.
        settings_of = [(one.cut, one.tokens) for one in decisions]
        of = {pair: server_part(job, spec, *pair) for pair in dict.fromkeys(settings_of)}
        served = [of[pair] for pair in settings_of]
        speed = settings.server_flops or np.inf
        server_s = samples * np.array([flops(part) for part in served]) / speed
        if job.method.pooled:
            return durations(1, server_s=server_s, steps=steps, one_way=True)
        state = self.state
        assert state is not None
        uplink_bps = self.world.uplink_bps(
            state,
            np.array([one.bandwidth_hz or 0.0 for one in decisions]),
            np.array([one.power_w or 0.0 for one in decisions]),
        )
        parts = self._device_parts(decisions)
        traffic = [self.shape.traffic[device] for device in self.shape.trained]
        computed = self.shape.computed_table()
        share = samples / samples.sum(axis=0)
        sent = self._sent_share(samples, computed) * np.array([t.activations for t in traffic])
        returned = share * np.array([t.gradients for t in traffic])
        tail_s, back_s = np.zeros(server_s.shape), np.zeros(server_s.shape)
        if job.has_tail:
            tails = np.array([flops(tail) for tail in self._tails(decisions)])
            tail_s = energy.compute_s(samples * tails, self.fleet)
            back_s = samples * np.array([part.backward_flops if part else 0 for part in served])
            back_s = back_s / speed
            server_s = server_s - back_s
        features = share * np.array([float(t.features) for t in traffic])
        answers = share * np.array([float(t.feature_gradients) for t in traffic])
        one_way = job.method.split and not returned.any()
        forward = self._forward_flops(decisions, parts)
        backward = np.array([0 if one_way else part.backward_flops for part in parts])
        broadcast = np.full(
            (1, len(traffic)), float(max(t.adapter_down + t.coding_down for t in traffic))
        )
        upload = np.array([[float(t.adapter_up) for t in traffic]])
        return durations(
            len(traffic),
            broadcast_s=self._frames_s("broadcast", broadcast, self.world.broadcast_bps(state))[0],
            forward_s=energy.compute_s(computed * forward, self.fleet),
            uplink_s=self._frames_s("uplink", sent, uplink_bps),
            server_s=server_s,
            downlink_s=self._frames_s("downlink", returned, state.downlink_bps),
            backward_s=energy.compute_s(samples * backward, self.fleet),
            upload_s=self._frames_s("upload", upload, uplink_bps)[0],
            tail_downlink_s=self._frames_s("tail_downlink", features, state.downlink_bps),
            tail_s=tail_s,
            tail_uplink_s=self._frames_s("tail_uplink", answers, uplink_bps),
            server_backward_s=back_s,
            steps=steps,
            one_way=one_way,
            has_tail=job.has_tail,
        )

    def _sent_share(self, samples: Ints, computed: Ints) -> Array:
        """The share of a device's activation bytes that each step sends [S, M]; sums to 1."""
        weights = samples if not self.shape.computed else computed + _NAME * samples
        found: Array = weights / weights.sum(axis=0)
        return found

    def _frames_s(self, stage: Stage, size_bytes: Array, rate_bps: Array) -> Array:
        """Seconds [S, M] until each frame has arrived.

        size_bytes: of the frame of each step and device [S, M]; one of size 0 takes no time.
        rate_bps: of each device [M]; a frame over a link of rate 0 never arrives (infinite).
        """
        settings = self.world.settings
        with np.errstate(divide="ignore", invalid="ignore"):
            whole_s = 8 * size_bytes / rate_bps + settings.latency_s
        seconds: Array = np.where(size_bytes > 0, whole_s, 0.0)
        if settings.packet_loss:
            for place, device in enumerate(self.shape.trained):
                rng = numpy_rng(self.job.seed, self.shape.round, stage, device, "packet loss")
                for size in np.unique(size_bytes[:, place]):
                    frames = size_bytes[:, place] == size
                    seconds[frames, place] += lateness_s(
                        rng,
                        float(size),
                        float(rate_bps[place]),
                        int(frames.sum()),
                        settings.packet_loss,
                        2 * settings.latency_s,
                    )
        return seconds
