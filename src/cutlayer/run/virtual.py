"""What a run would take in its world: virtual seconds and joules, from the bytes it really sent."""

from collections.abc import Sequence

import numpy as np

from cutlayer.job import Job
from cutlayer.model.cost import device_cost, server_cost, whole_cost
from cutlayer.model.families import ModelSpec
from cutlayer.run.costs import tokens_sent
from cutlayer.train.round import RoundResult
from cutlayer.world import clock, energy
from cutlayer.world.fleet import Fleet
from cutlayer.world.timeline import Durations, Timeline, durations
from cutlayer.world.units import Array
from cutlayer.world.world import World, WorldState


class VirtualClock:
    """Times the rounds of a run, one after another.

    Bandwidth is split equally over the cohort and devices send at their largest power. Broadcast
    goes at the rate of the cohort's worst gain (ST-SFLora, arXiv 2605.26120); activations,
    gradients and adapters take the bytes of their frames.
    now_s: virtual seconds since the run began.
    """

    def __init__(self, job: Job, spec: ModelSpec, now_s: float = 0.0) -> None:
        assert job.world is not None
        self.job = job
        self.now_s = now_s
        self._world = World(job.world, job.devices.count, job.seed)
        method, cut = job.method, job.model.cut
        whole = whole_cost(spec)
        self._device = device_cost(spec, cut) if method.split else whole
        if method.pooled:
            self._server_flops = whole.forward_flops + whole.backward_flops
        elif method.split:
            server = server_cost(spec, cut, tokens_sent(job, spec))
            self._server_flops = server.forward_flops + server.backward_flops
        else:
            self._server_flops = 0

    def covered(self, round: int, cohort: Sequence[int]) -> list[int]:
        """The devices of a cohort that are in coverage when the round starts.

        Raises WorldError when there is none.
        """
        if self.job.method.pooled:
            return list(cohort)
        state = self._world.state(round, self.now_s, sharing=len(cohort))
        found = [device for device in cohort if state.in_coverage[device]]
        if not found:
            self._world.check_coverage(state, cohort)
        return found

    def find_late(self, result: RoundResult, turn: Sequence[int]) -> list[int]:
        """The devices of a turn that missed the round's deadline or left coverage too early."""
        if self.job.method.pooled:
            return []
        timeline = self.timeline(result)
        late = timeline.late | (timeline.finish_s > self._state(result).stay_s)
        timed = self._timed(result)
        return [
            device for device, missed in zip(timed, late, strict=True) if missed and device in turn
        ]

    def timeline(self, result: RoundResult) -> Timeline:
        """When each stage of the round happened, by device in the order of the cohort."""
        assert self.job.world is not None
        deadline = self.job.world.deadline_s
        if self.job.method.order == "sequential":
            return clock.sequential(self._durations(result), deadline)
        return clock.parallel(self._durations(result), deadline_s=deadline)

    def close(self, result: RoundResult) -> tuple[float, dict[int, float]]:
        """End a round: its seconds, by which the clock moves on, and each device's joules."""
        timeline = self.timeline(result)
        joules = self._joules(result, timeline)
        self.now_s += timeline.duration_s
        return timeline.duration_s, joules

    def _joules(self, result: RoundResult, timeline: Timeline) -> dict[int, float]:
        if self.job.method.pooled:
            return {}
        assert self.job.world is not None
        timed = self._timed(result)
        fleet = self._world.fleet.take(np.asarray(timed))
        samples = np.array([result.samples[device] for device in timed])
        spent = energy.round_j(
            fleet,
            self.job.world.energy,
            fleet.power_max_w,
            timeline.busy_s("uplink") + timeline.busy_s("upload"),
            samples * self._device.forward_flops,
            samples * self._device.backward_flops,
        )
        return dict(zip(timed, spent.tolist(), strict=True))

    def _timed(self, result: RoundResult) -> list[int]:
        """The devices that have trained so far, in the order of the cohort."""
        return [device for device in result.cohort if result.losses.get(device)]

    def _state(self, result: RoundResult) -> WorldState:
        state = self._world.state(result.round, self.now_s, sharing=self._sharing(result))
        return state.take(np.asarray(self._timed(result)))

    def _sharing(self, result: RoundResult) -> int:
        """Devices that split the band: those of the round, or the one whose turn it is."""
        return 1 if self.job.method.order == "sequential" else len(result.cohort)

    def _durations(self, result: RoundResult) -> Durations:
        timed = self._timed(result)
        steps = np.array([len(result.losses[device]) for device in timed])
        a_step = np.array([result.samples[device] for device in timed]) / steps
        server_s = self._server_s(a_step)
        if self.job.method.pooled:
            return durations(1, server_s=server_s, steps=steps, one_way=True)
        fleet: Fleet = self._world.fleet.take(np.asarray(timed))
        state = self._state(result)
        traffic = [result.traffic[device] for device in timed]
        sent = np.array([t.activations for t in traffic]) / steps
        returned = np.array([t.gradients for t in traffic]) / steps
        one_way = self.job.method.split and not returned.any()
        return durations(
            len(timed),
            broadcast_s=self._broadcast_s(max(t.adapter_down for t in traffic), state),
            forward_s=energy.compute_s(a_step * self._device.forward_flops, fleet),
            uplink_s=_seconds(sent, state.uplink_bps),
            server_s=server_s,
            downlink_s=_seconds(returned, state.downlink_bps),
            backward_s=energy.compute_s(
                a_step * (0 if one_way else self._device.backward_flops), fleet
            ),
            upload_s=_seconds(np.array([t.adapter_up for t in traffic]), state.uplink_bps),
            steps=steps,
            one_way=one_way,
        )

    def _broadcast_s(self, size: int, state: WorldState) -> float:
        assert self.job.world is not None
        settings = self.job.world
        if not size:
            return 0.0
        rate = self._world.radio.broadcast_bps(
            settings.bandwidth_hz, settings.server_power_w, state.gain_down
        )
        return 8 * size / rate

    def _server_s(self, a_step: Array) -> Array:
        assert self.job.world is not None
        speed = self.job.world.server_flops
        return a_step * self._server_flops / speed if speed else np.zeros(len(a_step))


def _seconds(size_bytes: Array, rate_bps: Array) -> Array:
    """Seconds to send; nothing to send takes none, a dead link for ever."""
    bits = 8.0 * size_bytes
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bits > 0, bits / rate_bps, 0.0)
