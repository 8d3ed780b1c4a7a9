"""The input of allocators on a real network: devices and links as they were measured.

The job's world gives the budgets: bandwidth, powers, the cap on joules of sending, the server's
speed. Positions and fading are not drawn: when a device joins, it measures its FLOP/s and memory,
and the server measures the rates of its link up and down. Each rate counts as the one that the
device gets with an equal share of the bandwidth among all devices of a round, as in a trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cutlayer.allocate.round_shape import RoundShape
from cutlayer.job import Job
from cutlayer.model.families import ModelSpec
from cutlayer.network.transport.link_rates import LinkRates
from cutlayer.planning.known.planning_input import Measures, PlanningInput
from cutlayer.planning.known.round_loads import Loads
from cutlayer.planning.round_timing import TimedRound
from cutlayer.settings.places import MobilitySettings
from cutlayer.world.units import Array
from cutlayer.world.world import World, WorldState

# Rates are capped here: the rate of a cable would need a channel gain too large for a float.
_MOST_BPS_PER_HZ = 30.0
# FLOP/s assumed of a device that does not say its own: so few that it is chosen last.
_UNKNOWN_FLOPS = 1e3


@dataclass(frozen=True)
class KnownDevice:
    """What one device can do, as it says itself; the server measured its rates."""

    flops_per_s: float | None
    memory_bytes: int
    rates: LinkRates


class MeasuredWorld:
    """A PlanningSource that knows what was measured of devices."""

    def __init__(self, job: Job, spec: ModelSpec) -> None:
        assert job.world is not None
        self.job, self.spec = job, spec
        still = {"mobility": MobilitySettings(), "rates_path": None, "gains_path": None}
        self.world = World(job.world.model_copy(update=still), job.devices.count, job.seed)
        self._known: dict[int, KnownDevice] = {}

    def know(self, devices: Mapping[int, KnownDevice]) -> None:
        """Note what was measured of these devices, by number."""
        self._known |= devices

    def planning_input(
        self, round: int, samples: Mapping[int, int], classes: int, measures: Measures
    ) -> PlanningInput:
        """What an allocator needs to know. samples: of each device in one epoch."""
        numbers = np.fromiter(samples, dtype=np.int64)
        held = np.fromiter(samples.values(), dtype=np.float64)
        known = [self._known[number] for number in samples]
        one = np.ones(len(known))
        fleet = replace(
            self.world.fleet_of(numbers),
            clock_hz=np.array([device.flops_per_s or _UNKNOWN_FLOPS for device in known]),
            cores=one,
            flops_per_cycle=one,
            memory_bytes=np.array([float(device.memory_bytes or 1) for device in known]),
        )
        share = self.world.settings.bandwidth_hz
        if self.job.method.order != "sequential":
            share /= self.job.devices.cohort
        most_bps = _MOST_BPS_PER_HZ * share
        up = np.minimum([device.rates.received_bps for device in known], most_bps)
        down = np.minimum([device.rates.sent_bps for device in known], most_bps)
        return PlanningInput(
            job=self.job,
            devices=tuple(samples),
            loads=Loads(self.job, self.spec, classes, held),
            fleet=fleet,
            state=self._state(up, down, share, fleet.power_max_w),
            world=self.world,
            measures=measures,
        )

    def planned_s(self, known: PlanningInput, shape: RoundShape) -> float:
        """Seconds of a planned round, over the measured links."""
        place = [known.place[device] for device in shape.trained]
        fleet, state = known.fleet.take(place), known.state.take(place)
        return (
            TimedRound(self.job, self.spec, self.world, fleet, state, shape).timeline().duration_s
        )

    def _state(self, up_bps: Array, down_bps: Array, share_hz: float, power_w: Array) -> WorldState:
        """The state of devices at rest, with the channel gains that would give their rates."""
        zero = np.zeros(len(up_bps))
        here = np.ones(len(up_bps), dtype=np.bool_)
        radio, server_w = self.world.radio, self.world.settings.server_power_w
        return WorldState(
            x_m=zero,
            y_m=zero,
            distance_m=zero,
            speed_mps=zero,
            in_coverage=here,
            stay_s=np.full(len(up_bps), np.inf),
            line_of_sight=here,
            path_loss_db=zero,
            shadowing_db=zero,
            gain_up=radio.gain_for(up_bps, share_hz, power_w),
            gain_down=radio.gain_for(down_bps, share_hz, server_w),
            uplink_bps=up_bps,
            downlink_bps=down_bps,
        )
