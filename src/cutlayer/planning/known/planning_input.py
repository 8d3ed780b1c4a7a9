"""What is known when a round is planned: the devices that could take part, and what it costs them.

An allocator is a function `known: PlanningInput -> RoundDecisions`; name yours in a job as
`method.allocation.solver: package.module:FUNCTION`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.decision import Decision, Setting
from cutlayer.allocate.round_shape import RoundShape
from cutlayer.job import Job
from cutlayer.planning.calibration.record import Calibration
from cutlayer.planning.known.round_loads import Loads
from cutlayer.settings.allocation import Allocation
from cutlayer.settings.precision import Precision
from cutlayer.world import energy
from cutlayer.world.fleet import Fleet
from cutlayer.world.world import World, WorldState

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Measures(Protocol):
    """Statistics that some allocators choose by: measured on devices, or from a calibration."""

    def importance(self, devices: Sequence[int], cut: int) -> Floats:
        """f(K) [m, N + 1]: the share of attention that a sample's best K tokens hold; f(N) = 1.

        devices: m numbers. cut: blocks before the tokens are ranked, 1 or more.
        """
        ...

    def importance_at_hand(self, devices: Sequence[int], cut: int) -> Floats | None:
        """The same where it is known without asking any device; None where it is not.

        devices, cut: as of `importance`.
        """
        ...

    def spread(self, devices: Sequence[int], cut: int) -> tuple[Floats, Floats]:
        """Range of the activations (largest less smallest) and their mean square, [m] each.

        devices: m numbers. cut: blocks before what is measured.
        """
        ...

    def calibration(self, precision: Precision = "float32") -> Calibration:
        """The measured share of predictions that survives each cut, number of tokens and bits, of
        devices that compute in `precision`."""
        ...


@dataclass(frozen=True, eq=False)
class PlanningInput:
    """m devices that could take part in a round of a job; arrays are [m] in the order of `devices`.

    job: what is run. devices: their numbers. loads: bits, FLOPs and memory of the round, by cut,
    tokens and bits. fleet: processors, powers and memory. state: places, channel gains and rates in
    this round. measures: statistics of activations, for allocators that choose by them.
    world: its settings and radio. label_emd: [m] earth mover's distance between the labels that a
    device shared and those of the whole fleet; None if no device shared any. visited: the devices
    whose samples the server holds, so that they need not be sent again, and the setting (cut,
    tokens, bits) at which it holds them. in_float32: devices that compute in no other numbers,
    whatever the job allows, since they run torch.
    """

    job: Job
    devices: tuple[int, ...]
    loads: Loads
    fleet: Fleet
    state: WorldState
    world: World
    measures: Measures
    label_emd: Floats | None = None
    visited: Mapping[int, Setting] = field(default_factory=dict)
    in_float32: Collection[int] = ()

    @property
    def allocation(self) -> Allocation:
        """The job's settings of the allocator."""
        return self.job.method.allocation

    @property
    def numbers(self) -> Ints:
        """Numbers [m] by which a solver names the devices in its sentences: their own."""
        return np.array(self.devices, dtype=np.int64)

    @property
    def gain(self) -> Floats:
        """Channel gain h of each device's uplink: received over sent power [m]."""
        return self.state.gain_up

    @property
    def turns(self) -> bool:
        """Whether devices train one after another, each with the whole bandwidth."""
        return self.job.method.order == "sequential"

    @property
    def bandwidth_hz(self) -> float:
        """Bandwidth in Hz that the devices of the round share (W_tot)."""
        return self.world.settings.bandwidth_hz

    @cached_property
    def place(self) -> dict[int, int]:
        """By device: its place in `devices` and in every array [m]."""
        return {device: at for at, device in enumerate(self.devices)}

    def uplink_bps(self, bandwidth_hz: npt.ArrayLike, power_w: npt.ArrayLike) -> Floats:
        """Uplink rates [m] in bit/s at these bandwidths and powers, as the round is timed with.

        bandwidth_hz, power_w: of each device [m], or one number for all.
        """
        return self.world.uplink_bps(self.state, bandwidth_hz, power_w)

    def decided_bps(self, decisions: Mapping[int, Decision]) -> Floats:
        """Uplink rates in bit/s of the devices decided for, in the order of `decisions`."""
        here = np.array([self.place[device] for device in decisions], dtype=np.int64)
        width, power = np.ones((2, len(self.devices)))  # devices left out send nothing
        width[here] = [one.bandwidth_hz or 0.0 for one in decisions.values()]
        power[here] = [one.power_w or 0.0 for one in decisions.values()]
        return self.uplink_bps(width, power)[here]

    @property
    def noise_w_per_hz(self) -> float:
        """Noise density N0 in W/Hz, SNR gap included, so that R = W log2(1 + p h / (N0 W))."""
        return self.world.radio.noise_w_per_hz * self.world.radio.snr_gap

    @property
    def limit_s(self) -> Floats:
        """Seconds [m] since the round's start by which each device must be done; inf: no limit."""
        deadline = self.world.settings.deadline_s
        return np.minimum(self.state.stay_s, np.inf if deadline is None else deadline)

    @property
    def server_flops(self) -> float:
        """FLOP/s that the server computes; inf where its computing takes no time."""
        return self.world.settings.server_flops or np.inf

    @property
    def energy_cap_j(self) -> Floats:
        """Joules [m] that each device may spend in the round; inf without a cap."""
        cap = self.world.settings.energy.cap_j
        return np.full(len(self.devices), np.inf if cap is None else cap)

    @property
    def joules_per_flop(self) -> Floats:
        """Joules [m] that a FLOP takes; 0 where the job's world does not count computing."""
        counted = self.world.settings.energy
        return energy.compute_j(float(counted.forward or counted.backward), self.fleet)

    def upload_energy_j(self, cut: int) -> Floats:
        """Joules [m] left for the upload after computing; nearly 0 if computing takes all.

        cut: blocks on the devices.
        """
        return np.maximum(self.energy_cap_j - self.compute_j(cut), 1e-30)

    def compute_j(self, cut: int) -> Floats:
        """Joules [m] of computing in the round, as far as the job's world counts it.

        cut: blocks on the devices.
        """
        counted, total = self.world.settings.energy, np.zeros(len(self.devices))
        if counted.forward:
            total = total + energy.compute_j(self.loads.forward_flops(cut), self.fleet)
        if counted.backward:
            total = total + energy.compute_j(self.loads.backward_flops(cut), self.fleet)
        return total

    def broadcast_s(self, cut: int) -> Floats:
        """Seconds [m] in which the adapters reach each device at the round's start.

        cut: blocks on the devices.
        """
        bits = self.loads.adapter_bits(cut)
        if not bits:
            return np.zeros(len(self.devices))
        with np.errstate(divide="ignore"):
            sent: Floats = bits / self.world.broadcast_bps(self.state)
        return sent + self.world.settings.latency_s

    def fixed_s(self, cut: int, tokens: int | None, bits: int) -> Floats:
        """Seconds [m] that do not depend on the upload: broadcast, computing, downlink, latency.

        cut: blocks on the devices. tokens: kept of a sample (None: all). bits: of a gradient value.
        """
        return self.broadcast_s(cut) + self.following_s(cut, tokens, bits)

    def following_s(self, cut: int, tokens: int | None, bits: int) -> Floats:
        """Seconds [m] after the broadcast, without sending the upload: computing on both sides, the
        downlink, and the latency of every frame.

        cut: blocks on the devices. tokens: kept of a sample (None: all). bits: of a gradient value.
        """
        loads = self.loads
        flops = loads.forward_flops(cut) + loads.backward_flops(cut)
        back = loads.gradient_bits(cut, tokens, bits)
        with np.errstate(divide="ignore", invalid="ignore"):
            downlink = np.where(back > 0, back / self.state.downlink_bps, 0.0)
        served = loads.server_flops(cut, tokens) / self.server_flops
        work = energy.compute_s(flops, self.fleet) + served
        return work + downlink + self._latency_s(cut, back)

    def _latency_s(self, cut: int, back_bits: Floats) -> Floats:
        """Seconds [m] of latency of all frames after the broadcast."""
        steps = self.loads.steps if self.job.method.split else np.zeros(len(self.devices))
        frames = steps * np.where(back_bits > 0, 2, 1) + (self.loads.adapter_bits(cut) > 0)
        return self.world.settings.latency_s * frames

    def upload_bits(self, cut: int, tokens: int | None, bits: float) -> Floats:
        """Bits [m] that each device sends in the round: activations, at so many bits a value, and
        its adapter.

        cut: blocks on the devices. tokens: kept of a sample (None: all). bits: of an activation
        value.
        """
        sent = np.zeros(len(self.devices))
        if self.job.method.split:
            sent = self.loads.activations_bits(cut, tokens, bits)
        return sent + self.loads.adapter_bits(cut)

    def take(self, indices: Iterable[int]) -> "PlanningInput":
        """What is known of some of the devices only, given by their places in `devices`.

        indices: places, in the order wanted.
        """
        index = np.asarray(list(indices), dtype=np.int64)
        return replace(
            self,
            devices=tuple(self.devices[i] for i in index),
            loads=self.loads.take(index),
            fleet=self.fleet.take(index),
            state=self.state.take(index),
            label_emd=None if self.label_emd is None else self.label_emd[index],
        )


class PlanningSource(Protocol):
    """Knows devices and radio: from the job's world, or from measurements on a network."""

    def planning_input(
        self, round: int, samples: Mapping[int, int], classes: int, measures: Measures
    ) -> PlanningInput:
        """What an allocator needs to know. samples: of each device in one epoch."""
        ...

    def planned_s(self, known: PlanningInput, shape: RoundShape) -> float:
        """Seconds that a planned round should take, timed like a real one."""
        ...


@dataclass(frozen=True)
class RoundDecisions:
    """A round's decisions by device, and why other devices have none.

    decisions: by device, what it is told.
    left_out: by device, the reason why it does not take part. solver_s: the round's seconds by the
    solver's own formula, if it has one. ste, ste_bound: the plan's STE and the largest possible,
    if the solver knows them; `decide` sets an STE that an allocator leaves out, where importance is
    known. note: one sentence on how the solver ended, or "". planned_s: the seconds that the
    virtual clock expects; `decide` sets it, not the allocator.
    """

    decisions: dict[int, Decision]
    left_out: dict[int, str] = field(default_factory=dict)
    solver_s: float | None = None
    ste: float | None = None
    ste_bound: float | None = None
    note: str = ""
    planned_s: float | None = None
