"""What a run would take in its world: virtual seconds and joules, from the bytes it really sent."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from cutlayer.errors import WorldError
from cutlayer.job import Job
from cutlayer.model.families import ModelSpec
from cutlayer.planning.known.method_costs import device_part, flops, generated_flops, server_part
from cutlayer.planning.known.planning_input import Measures, PlanningInput
from cutlayer.planning.known.round_loads import Loads
from cutlayer.seeds import numpy_rng
from cutlayer.train.cohort import make_pools
from cutlayer.train.result import RoundResult
from cutlayer.world import clock, energy
from cutlayer.world.packet_loss import lateness_s
from cutlayer.world.timeline import Durations, Stage, Timeline, durations
from cutlayer.world.units import Array, Indices
from cutlayer.world.world import World, WorldState


class VirtualClock:
    """Times the rounds of a run, one after another.

    Devices send with the bandwidth and power decided for them; the downlink is split equally, and
    broadcast goes at the rate of the cohort's worst gain (ST-SFLora, arXiv 2605.26120).
    Activations, gradients and adapters take the bytes of their frames.
    now_s: virtual seconds since the run began.
    """

    def __init__(self, job: Job, spec: ModelSpec, now_s: float = 0.0) -> None:
        assert job.world is not None
        self.job = job
        self.spec = spec
        self.now_s = now_s
        self.world = World(job.world, job.devices.count, job.seed)

    def covered(self, round: int, cohort: Sequence[int]) -> list[int]:
        """The devices of a cohort that are in coverage when the round starts.

        Raises WorldError when there is none.
        """
        if self.job.method.pooled:
            return list(cohort)
        state = self.world.state(round, self.now_s)
        found = [device for device in cohort if state.in_coverage[device]]
        if not found:
            nearest = min(cohort, key=lambda device: float(state.distance_m[device]))
            raise WorldError(
                f"round {round + 1}: no device of its {len(cohort)} is in coverage; the nearest, "
                f"device {nearest}, is {state.distance_m[nearest]:.0f} m from the server or not on "
                f"the road, and world.coverage_m is {self.world.settings.coverage_m:g}: widen the "
                "coverage, or draw more devices a round (devices.per_round)"
            )
        return found

    def planning_input(
        self, round: int, samples: Mapping[int, int], classes: int, measures: Measures
    ) -> PlanningInput:
        """What an allocator needs to know of the devices in `samples` (of an epoch, each)."""
        numbers = np.fromiter(samples, dtype=np.int64)
        state = self._state(round, numbers)
        held = np.fromiter(samples.values(), dtype=np.float64)
        return PlanningInput(
            job=self.job,
            devices=tuple(samples),
            loads=Loads(self.job, self.spec, classes, held),
            fleet=self.world.fleet.take(numbers),
            state=state,
            world=self.world,
            measures=measures,
        )

    def find_late(self, result: RoundResult, turn: Sequence[int]) -> list[int]:
        """The devices of a turn that missed the round's deadline or left coverage too early."""
        if self.job.method.pooled:
            return []
        timeline, timed = self.timeline(result), _timed(result)
        late = timeline.late | (timeline.finish_s > self._state(result.round, timed).stay_s)
        return [
            int(device)
            for device, missed in zip(timed, late, strict=True)
            if missed and device in turn
        ]

    def timeline(self, result: RoundResult) -> Timeline:
        """When each stage of the round happened, by device in the order of the cohort."""
        deadline = self.world.settings.deadline_s
        if self.job.method.order == "sequential":
            return clock.sequential(self._durations(result), deadline)
        place = {device: at for at, device in enumerate(_timed(result).tolist())}
        pools = make_pools(self.job, result.decisions, list(place))
        return clock.parallel(
            self._durations(result),
            self.world.settings.serving,
            deadline,
            [[place[device] for device in pool] for pool in pools],
        )

    def idle_s(self, result: RoundResult) -> float:
        """Seconds of the round in which the server computes nothing for devices."""
        return _idle_s(self.timeline(result))

    def generated_training_s(self, result: RoundResult) -> float:
        """Seconds in which the server trains on one generated image, all epochs together."""
        speed = self.world.settings.server_flops
        return generated_flops(self.job, self.spec, result.decisions) / speed if speed else 0.0

    def close(self, result: RoundResult) -> tuple[float, dict[int, float]]:
        """End a round: its seconds, by which the clock moves on, and each device's joules.

        The server's own work on generated data fills its idle time; what is beyond comes on top.
        """
        timeline = self.timeline(result)
        joules = self._joules(result, timeline)
        duration = timeline.duration_s
        if result.generated and result.generated.seconds > _idle_s(timeline):
            duration += result.generated.seconds - _idle_s(timeline)
        self.now_s += duration
        return duration, joules

    def _joules(self, result: RoundResult, timeline: Timeline) -> dict[int, float]:
        if self.job.method.pooled:
            return {}
        timed = _timed(result)
        samples = np.array([result.samples[device] for device in timed])
        parts = [device_part(self.job, self.spec, result.decisions[d].cut) for d in timed]
        spent = energy.round_j(
            self.world.fleet.take(timed),
            self.world.settings.energy,
            np.array([result.decisions[device].power_w or 0.0 for device in timed]),
            timeline.busy_s("uplink") + timeline.busy_s("upload"),
            samples * np.array([part.forward_flops for part in parts]),
            samples * np.array([part.backward_flops for part in parts]),
        )
        return dict(zip(timed.tolist(), spent.tolist(), strict=True))

    def _state(self, round: int, devices: np.ndarray) -> WorldState:
        """The world for some devices of a round.

        Devices that take turns have the whole band. A trace's rates are taken as those of an
        equal share among all of a cohort, whoever of it takes part.
        """
        sharing = len(devices)
        if self.world.settings.rates_path:
            sharing = self.job.devices.cohort
        if self.job.method.order == "sequential":
            sharing = 1
        return self.world.state(round, self.now_s, sharing).take(devices)

    def _durations(self, result: RoundResult) -> Durations:
        timed = _timed(result)
        steps = np.array([len(result.losses[device]) for device in timed])
        a_step = np.array([result.samples[device] for device in timed]) / steps
        decisions = [result.decisions[device] for device in timed]
        served = [flops(server_part(self.job, self.spec, one.cut, one.tokens)) for one in decisions]
        server_s = self._server_s(a_step * np.array(served))
        if self.job.method.pooled:
            return durations(1, server_s=server_s, steps=steps, one_way=True)
        fleet = self.world.fleet.take(timed)
        state = self._state(result.round, np.array(result.cohort)).take(
            [result.cohort.index(device) for device in timed]
        )
        uplink_bps = self.world.uplink_bps(
            state,
            np.array([one.bandwidth_hz or 0.0 for one in decisions]),
            np.array([one.power_w or 0.0 for one in decisions]),
        )
        parts = [device_part(self.job, self.spec, one.cut) for one in decisions]
        traffic = [result.traffic[device] for device in timed]
        sent = np.array([t.activations for t in traffic]) / steps
        returned = np.array([t.gradients for t in traffic]) / steps
        one_way = self.job.method.split and not returned.any()
        backward = np.array([0 if one_way else part.backward_flops for part in parts])

        broadcast = np.full(len(timed), float(max(t.adapter_down for t in traffic)))
        uploads = np.array([float(t.adapter_up) for t in traffic])
        frames_s = partial(self._frames_s, result.round, timed)
        return durations(
            len(timed),
            broadcast_s=frames_s("broadcast", broadcast, self.world.broadcast_bps(state))[0],
            forward_s=energy.compute_s(
                a_step * np.array([part.forward_flops for part in parts]), fleet
            ),
            uplink_s=frames_s("uplink", sent, uplink_bps, steps.max()),
            server_s=server_s,
            downlink_s=frames_s("downlink", returned, state.downlink_bps, steps.max()),
            backward_s=energy.compute_s(a_step * backward, fleet),
            upload_s=frames_s("upload", uploads, uplink_bps)[0],
            steps=steps,
            one_way=one_way,
        )

    def _frames_s(
        self,
        round: int,
        devices: Indices,
        stage: Stage,
        size_bytes: Array,
        rate_bps: Array,
        count: int = 1,
    ) -> Array:
        """[count, M] seconds until each of `count` frames of a device is there.

        Nothing to send takes no time, over a dead link for ever.
        """
        settings = self.world.settings
        with np.errstate(divide="ignore", invalid="ignore"):
            whole_s = 8 * size_bytes / rate_bps + settings.latency_s
        seconds = np.tile(np.where(size_bytes > 0, whole_s, 0.0), (count, 1))
        if settings.packet_loss:
            for place, device in enumerate(devices.tolist()):
                seconds[:, place] += lateness_s(
                    numpy_rng(self.job.seed, round, stage, device, "packet loss"),
                    size_bytes[place],
                    rate_bps[place],
                    count,
                    settings.packet_loss,
                    2 * settings.latency_s,
                )
        return seconds

    def _server_s(self, work: Array) -> Array:
        speed = self.world.settings.server_flops
        return work / speed if speed else np.zeros(len(work))


def _idle_s(timeline: Timeline) -> float:
    return max(0.0, timeline.duration_s - float(timeline.busy_s("server").sum()))


def _timed(result: RoundResult) -> np.ndarray:
    """The devices that have trained so far, in the order of the cohort."""
    return np.array([device for device in result.cohort if result.losses.get(device)], dtype=int)
