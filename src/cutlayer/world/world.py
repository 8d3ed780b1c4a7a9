"""One round's world: where every device is, what its radio carries, how long it stays."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from cutlayer.seeds import numpy_rng
from cutlayer.settings.world import WorldSettings
from cutlayer.world import channel, mobility, pathloss
from cutlayer.world.draws import drawn_for, uniform
from cutlayer.world.fleet import Fleet, make_fleet
from cutlayer.world.link_traces import read_gains, read_rates
from cutlayer.world.own_channel import own_fading, own_loss_db
from cutlayer.world.traces import read_positions
from cutlayer.world.units import Array, Flags, Indices, array, ratio


@dataclass(frozen=True)
class WorldState:
    """M devices in one round; arrays [M].

    speed_mps: metres a second. in_coverage: whether the server reaches it. shadowing_db: in dB, 0
    where it is not drawn.
    x_m, y_m, distance_m: on the ground, from the server at (0, 0). stay_s: seconds left in
    coverage, infinite at rest, 0 outside. line_of_sight: always True except in the scenarios umi
    and uma. path_loss_db: without shadowing; with a trace of gains, the whole loss of the uplink.
    gain_up, gain_down: h, received over sent power, with path loss, shadowing, antennas and fading
    in it. uplink_bps, downlink_bps: at power_max_w and server_power_w with the bandwidth split
    equally; with a trace of rates, the trace's, and gain_up is the gain that gives that rate.
    """

    x_m: Array
    y_m: Array
    distance_m: Array
    speed_mps: Array
    in_coverage: Flags
    stay_s: Array
    line_of_sight: Flags
    path_loss_db: Array
    shadowing_db: Array
    gain_up: Array
    gain_down: Array
    uplink_bps: Array
    downlink_bps: Array

    def take(self, indices: npt.ArrayLike) -> WorldState:
        """The devices at `indices`, in that order."""
        return WorldState(*(getattr(self, field.name)[indices] for field in fields(self)))


class World:
    """The world of a run: fleet, movement and radio, drawn from `seed`.

    settings: `world` of a job.
    devices: M. The same settings, devices, seed, round and time give a device the same state, in
    whatever order and for whichever devices `state` is called. Memory grows with the devices asked
    for, not with M. Files are read here; raises WorldError for what cannot be used.
    """

    def __init__(self, settings: WorldSettings, devices: int, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.devices = devices
        if settings.fleet.path is not None:
            _ = self.fleet  # read now, so that a faulty file is refused now
        self.radio = channel.Radio(
            noise_w_per_hz=channel.noise_w_per_hz(
                settings.noise_dbm_per_hz, settings.noise_figure_db
            ),
            snr_gap=float(ratio(settings.snr_gap_db)),
            # A trace's rates are what was measured: no cap of ours comes on top.
            max_bps_per_hz=None if settings.rates_path else settings.max_bps_per_hz,
        )
        move = settings.mobility
        self._positions = read_positions(move.path, devices) if move.path else None
        self._rates = read_rates(settings.rates_path, devices) if settings.rates_path else None
        self._gains = read_gains(settings.gains_path, devices) if settings.gains_path else None

    @cached_property
    def fleet(self) -> Fleet:
        """All devices."""
        return make_fleet(self.settings.fleet, self.devices, self.seed)

    def fleet_of(self, devices: npt.ArrayLike) -> Fleet:
        """The devices with these numbers, in their order.

        devices: [m] numbers.
        """
        numbers = self._numbers(devices)
        if self.settings.fleet.path is not None:
            return self.fleet.take(numbers)
        return make_fleet(self.settings.fleet, self.devices, self.seed, numbers)

    def state(
        self,
        round: int,
        time_s: float,
        sharing: int | None = None,
        devices: npt.ArrayLike | None = None,
    ) -> WorldState:
        """The world in `round`, which starts at `time_s` of virtual time.

        devices: the numbers of the devices to return, in their order; None: all. sharing: how many
        devices split the bandwidth equally; None: as many of the returned ones as are in coverage.
        Fading is drawn for each round, shadowing and line of sight once for
        settings.shadowing_rounds rounds; places follow the time. Raises WorldError when a trace
        does not reach that time, and JobError if a user's function returns what cannot be used.
        """
        settings, numbers = self.settings, self._numbers(devices)
        fleet = self.fleet_of(numbers)
        motion = self._motion(round, time_s, numbers, fleet)
        distance = np.hypot(motion.x_m, motion.y_m)
        covered = motion.present & (distance <= settings.coverage_m)
        clear = self._line_of_sight(round, numbers, distance)
        if self._gains is not None:
            up_db, down_db = (gains[numbers] for gains in self._gains.at(time_s))
            loss, shadow = -up_db, np.zeros(len(numbers))
            gain_up, gain_down = ratio(up_db), ratio(down_db)
        else:
            loss = self._path_loss_db(distance, clear)
            shadow = self._shadowing_db(round, numbers, clear)
            gain_up, gain_down = self._drawn_gains(round, numbers, loss + shadow)
        among = int(covered.sum()) if sharing is None else sharing
        share = settings.bandwidth_hz / max(among, 1)
        if self._rates is not None:
            uplink, downlink = (rates[numbers] for rates in self._rates.at(time_s))
            gain_up = self.radio.gain_for(uplink, share, fleet.power_max_w)
        else:
            uplink = self.radio.rate_bps(share, fleet.power_max_w, gain_up)
            # The server splits its power as it splits the band.
            power = settings.server_power_w / max(among, 1)
            downlink = self.radio.rate_bps(share, power, gain_down)
        return WorldState(
            x_m=motion.x_m,
            y_m=motion.y_m,
            distance_m=distance,
            speed_mps=motion.speed_mps,
            in_coverage=covered,
            stay_s=np.where(covered, self._stay_s(motion, distance), 0.0),
            line_of_sight=clear,
            path_loss_db=loss,
            shadowing_db=shadow,
            gain_up=gain_up,
            gain_down=gain_down,
            uplink_bps=uplink,
            downlink_bps=np.broadcast_to(downlink, (len(numbers),)),
        )

    def uplink_bps(
        self, state: WorldState, bandwidth_hz: npt.ArrayLike, power_w: npt.ArrayLike
    ) -> Array:
        """The rates [M] at bandwidths and powers that an allocator chose.

        state: of M devices in a round. bandwidth_hz, power_w: [M], or one number for all.
        """
        return self.radio.rate_bps(bandwidth_hz, power_w, state.gain_up)

    def broadcast_bps(self, state: WorldState) -> Array:
        """The rates [M] in bit/s at which the devices of `state` get a message for all of them.

        It is the rate of the worst gain for all (ST-SFLora's R_DL); with a trace of rates, each
        device has its own.
        """
        if self._rates is not None:
            return state.downlink_bps
        settings = self.settings
        worst = self.radio.broadcast_bps(
            settings.bandwidth_hz, settings.server_power_w, state.gain_down
        )
        return np.full(len(state.gain_down), worst)

    def _numbers(self, devices: npt.ArrayLike | None) -> Indices:
        """Numbers of devices as an array; None: of all."""
        if devices is None:
            return np.arange(self.devices)
        return np.asarray(devices, dtype=np.int64)

    def _motion(self, round: int, time_s: float, devices: Indices, fleet: Fleet) -> mobility.Motion:
        settings, move = self.settings, self.settings.mobility
        if move.kind == "highway":
            return mobility.make_highway(move, devices, self.seed).at(time_s)
        if self._positions is not None:
            there = self._positions.at(time_s + move.start_s).take(devices)
            return there.seen_from(move.server_x_m, move.server_y_m)
        if move.kind == "redraw":
            return mobility.redrawn(settings.fleet, move, devices, self.seed, round)
        return mobility.standing(fleet)

    def _stay_s(self, motion: mobility.Motion, distance: Array) -> Array:
        settings = self.settings
        if settings.mobility.stay == "radial":
            stay = mobility.radial_stay_s(distance, motion.speed_mps, settings.coverage_m)
        else:
            stay = mobility.straight_stay_s(motion, settings.coverage_m)
        return stay if settings.max_stay_s is None else np.minimum(stay, settings.max_stay_s)

    def _line_of_sight(self, round: int, devices: Indices, distance: Array) -> Flags:
        settings = self.settings
        if settings.urban is None or settings.line_of_sight == "always":
            return np.ones(len(distance), dtype=bool)
        if settings.line_of_sight == "never":
            return np.zeros(len(distance), dtype=bool)
        # One number for each device and block of rounds: a device that comes nearer can only gain
        # its line of sight.
        rng = numpy_rng(self.seed, self._block(round), "line of sight")
        part = drawn_for(devices, rng, uniform)
        return part < pathloss.line_of_sight_probability(settings.urban, distance)

    def _path_loss_db(self, distance: Array, clear: Flags) -> Array:
        settings = self.settings
        if settings.path_loss == "log-distance":
            return pathloss.log_distance_db(
                distance,
                settings.carrier_hz,
                settings.exponent,
                settings.reference_m,
                settings.reference_loss_db,
            )
        if settings.urban is None:
            return own_loss_db(settings.path_loss, distance, settings.carrier_hz)
        return pathloss.urban_db(
            settings.urban,
            distance,
            clear,
            settings.carrier_hz,
            settings.server_height_m,
            settings.device_height_m,
        )

    def _shadowing_db(self, round: int, devices: Indices, clear: Flags) -> Array:
        settings = self.settings
        std = array(settings.shadowing_db or 0.0)
        if settings.shadowing_db is None and settings.urban is not None:
            std = pathloss.shadowing_std_db(settings.urban, clear)
        if not std.any():
            return np.zeros(len(clear))
        rng = numpy_rng(self.seed, self._block(round), "shadowing")
        return std * drawn_for(devices, rng, lambda rng, count: rng.standard_normal(count))

    def _drawn_gains(self, round: int, devices: Indices, loss_db: Array) -> tuple[Array, Array]:
        """Gains up and down through a loss [m] with shadowing, antennas and fading."""
        antennas = self.settings.server_gain_dbi + self.settings.device_gain_dbi
        up = channel.power_gain(loss_db, antennas, self._fading(round, devices, "up"))
        if self.settings.reciprocal:
            return up, up
        return up, channel.power_gain(loss_db, antennas, self._fading(round, devices, "down"))

    def _fading(self, round: int, devices: Indices, way: str) -> Array:
        settings = self.settings
        rng = numpy_rng(self.seed, round, "fading", way)
        if settings.fading == "rayleigh":
            return drawn_for(devices, rng, channel.rayleigh)
        if settings.fading == "rician":
            return drawn_for(devices, rng, partial(channel.rician, k_db=settings.rician_k_db))
        if settings.fading == "none":
            return np.ones(len(devices))
        # Drawn for the whole fleet: a user's function may draw its devices in any order, so that
        # a draw for some of them alone would give them other values.
        return own_fading(settings.fading, rng, self.devices)[devices]

    def _block(self, round: int) -> int:
        rounds = self.settings.shadowing_rounds
        return 0 if rounds is None else round // rounds
