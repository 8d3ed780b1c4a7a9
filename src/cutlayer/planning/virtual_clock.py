"""Virtual seconds and joules of a run in its world, from the bytes that it really sent."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cutlayer.allocate.decision import Setting, serves, setting_of
from cutlayer.allocate.round_shape import RoundShape
from cutlayer.errors import WorldError
from cutlayer.job import Job
from cutlayer.model.families import ModelSpec
from cutlayer.planning.known.method_costs import generated_flops
from cutlayer.planning.known.planning_input import Measures, PlanningInput
from cutlayer.planning.known.round_loads import Loads
from cutlayer.planning.round_timing import TimedRound
from cutlayer.train.reuse import holds_all_after_a_visit
from cutlayer.world.timeline import Timeline
from cutlayer.world.units import Indices
from cutlayer.world.world import World, WorldState


class VirtualClock:
    """Times the rounds of a run, one after another.

    Devices send with the bandwidth and power decided for them; the downlink is split equally, and
    broadcast goes at the rate of the cohort's worst gain (ST-SFLora, arXiv 2605.26120).
    Activations, gradients and adapters count with the bytes of their frames.
    now_s: virtual seconds since the run began. visited: the devices whose samples the server holds.
    """

    def __init__(self, job: Job, spec: ModelSpec, now_s: float = 0.0) -> None:
        assert job.world is not None
        self.job = job
        self.spec = spec
        self.now_s = now_s
        self.visited: dict[int, Setting] = {}
        self.world = World(job.world, job.devices.count, job.seed)

    def reachable(self, round: int, cohort: Sequence[int]) -> tuple[list[int], dict[int, str]]:
        """The devices that the server reaches at a round's start, and why it misses the others.

        A device is out of reach if it is out of coverage, or if its trace has a rate of zero in
        either direction, so that it could not be told what was decided or could not answer. Raises
        WorldError when nobody is left.
        """
        if self.job.method.pooled:
            return list(cohort), {}
        state = self.world.state(round, self.now_s, len(cohort), cohort)
        away: dict[int, str] = {}
        for place, device in enumerate(cohort):
            dead = [
                name
                for name, rate in (("uplink", state.uplink_bps), ("downlink", state.downlink_bps))
                if not rate[place] > 0
            ]
            if not state.in_coverage[place]:
                away[device] = "out of coverage"
            elif dead:
                away[device] = f"outage: its {' and '.join(dead)} rate is 0"
        if len(away) == len(cohort):
            raise WorldError(self._nobody(round, cohort, away, state))
        return [device for device in cohort if device not in away], away

    def _nobody(
        self, round: int, cohort: Sequence[int], away: Mapping[int, str], state: WorldState
    ) -> str:
        """Why a round has no devices, and what would help; state: of the cohort."""
        covered = [device for device, there in zip(cohort, state.in_coverage, strict=True) if there]
        if covered:
            trace = " in world.rates_path" if self.world.settings.rates_path else ""
            return (
                f"round {round + 1}: no device of its {len(cohort)} can be reached; device "
                f"{covered[0]} has an {away[covered[0]]}{trace} at "
                f"{self.now_s:.4g} s: draw more devices a round (devices.per_round), or take a "
                "trace whose outages do not meet"
            )
        near = min(range(len(cohort)), key=lambda place: float(state.distance_m[place]))
        return (
            f"round {round + 1}: no device of its {len(cohort)} is in coverage; the nearest, "
            f"device {cohort[near]}, is {state.distance_m[near]:.0f} m from the server or not on "
            f"the road, and world.coverage_m is {self.world.settings.coverage_m:g}: widen the "
            "coverage, or draw more devices a round (devices.per_round)"
        )

    def planning_input(
        self, round: int, samples: Mapping[int, int], classes: int, measures: Measures
    ) -> PlanningInput:
        """What an allocator needs to know. samples: of each device in one epoch."""
        numbers = np.fromiter(samples, dtype=np.int64)
        state = self._state(round, numbers.tolist(), numbers)
        held = np.fromiter(samples.values(), dtype=np.float64)
        return PlanningInput(
            job=self.job,
            devices=tuple(samples),
            loads=Loads(self.job, replace(self.spec, num_classes=classes), classes, held),
            fleet=self.world.fleet_of(numbers),
            state=state,
            world=self.world,
            measures=measures,
            visited=self.visited,
        )

    def note(self, shape: RoundShape) -> None:
        """Remember which samples the server holds after a round that happened or is planned."""
        for device in shape.computed if holds_all_after_a_visit(self.job) else ():
            setting = setting_of(shape.decisions[device], self.job.method)
            if not serves(self.visited.get(device), setting, self.job.method):
                self.visited[device] = setting

    def planned_s(self, known: PlanningInput, shape: RoundShape) -> float:
        """Seconds that a planned round should take, timed like a real one."""
        return self.timeline(shape).duration_s

    def find_late(self, shape: RoundShape, turn: Sequence[int]) -> list[int]:
        """The devices of a turn that missed the round's deadline or left coverage too early."""
        if self.job.method.pooled:
            return []
        timed = self.timed(shape)
        timeline = timed.timeline()
        late = timed.late(timeline)
        return [device for device in late if device in turn]

    def timeline(self, shape: RoundShape) -> Timeline:
        """When each stage of the round happened, by device in the order of `shape.trained`."""
        return self.timed(shape).timeline()

    def idle_s(self, shape: RoundShape) -> float:
        """Seconds of the round in which the server computes nothing for devices."""
        return _idle_s(self.timeline(shape))

    def generated_training_s(self, shape: RoundShape) -> float:
        """Seconds in which the server trains on one generated image, all epochs together."""
        speed = self.world.settings.server_flops
        return generated_flops(self.job, self.spec, shape.decisions) / speed if speed else 0.0

    def close(self, shape: RoundShape, generated_s: float = 0.0) -> tuple[float, dict[int, float]]:
        """End a round; returns its seconds, by which the clock moves on, and each device's joules.

        generated_s: seconds of the server's own work on generated data. It fills the server's idle
        time; seconds beyond that make the round longer.
        """
        timed = self.timed(shape)
        timeline = timed.timeline()
        duration = timeline.duration_s + max(0.0, generated_s - _idle_s(timeline))
        self.now_s += duration
        self.note(shape)
        return duration, timed.joules(timeline)

    def timed(self, shape: RoundShape) -> TimedRound:
        """The round in the world at the clock's present second."""
        trained = np.array(shape.trained, dtype=np.int64)
        # One party that holds all the data sends nothing, so traces are not read.
        state = None if self.job.method.pooled else self._state(shape.round, shape.cohort, trained)
        fleet = self.world.fleet_of(trained)
        return TimedRound(self.job, self.spec, self.world, fleet, state, shape)

    def _state(self, round: int, cohort: Sequence[int], devices: Indices) -> WorldState:
        """The world for some devices of a round in which a cohort takes part.

        Devices that take turns have the whole band. The rates of a trace are taken to be those of
        an equal share among the whole cohort, however many of it take part.
        """
        sharing = len(cohort)
        if self.world.settings.rates_path:
            sharing = self.job.devices.cohort
        if self.job.method.order == "sequential":
            sharing = 1
        return self.world.state(round, self.now_s, sharing, devices)


def _idle_s(timeline: Timeline) -> float:
    busy = timeline.busy_s("server") + timeline.busy_s("server_backward")
    return max(0.0, timeline.duration_s - float(busy.sum()))
