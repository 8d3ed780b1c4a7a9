"""The world section of a job: radio, places, movement, energy and time, in SI units.

The defaults are the setting of ST-SFLora (arXiv 2605.26120) where the paper gives one; a field's
explanation says so where its default was inferred by us.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cutlayer.settings.section import Count, Section

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Preset = Literal[
    "phones", "raspberry-pi-4", "raspberry-pi-5", "jetson-nano", "jetson-orin-nano"
]  # fmt: skip


class FleetSettings(Section):
    """Which devices there are and where they start."""

    preset: Preset | Annotated[tuple[Preset, ...], Field(min_length=1)] = "phones"
    """A kind of device: phones, raspberry-pi-4, raspberry-pi-5, jetson-nano or jetson-orin-nano; or
    a list of kinds, dealt in turn.
    """

    path: str | None = None
    """A CSV file with a row for each device instead of a preset (see the page on fleets)."""

    placement: Literal["distance", "area"] = "distance"
    """Of presets: any distance from the server is equally likely (distance, inferred by us from
    "uniform in 5-500 m"), or any place between the two distances is (area).
    """

    min_distance_m: NotNegative = 5.0
    """Of presets: least distance from the server, in metres."""

    max_distance_m: Positive = 500.0
    """Of presets: largest distance from the server, in metres."""

    @model_validator(mode="after")
    def _ring_is_not_empty(self) -> Self:
        if self.min_distance_m >= self.max_distance_m:
            raise ValueError(
                f"min_distance_m is {self.min_distance_m:g} but max_distance_m is "
                f"{self.max_distance_m:g}: make the first the smaller"
            )
        return self


class MobilitySettings(Section):
    """How devices move."""

    kind: Literal["static", "redraw", "highway", "trace"] = "static"
    """static: as in the fleet. redraw: new places, speeds and headings each round, inferred by us
    for ST-SFLora. highway: a straight road past the server. trace: recorded positions.
    """

    stay: Literal["radial", "straight"] = "radial"
    """Time left in coverage: as if driving straight away from the server, ST-SFLora's (L - l) / v
    (radial), or along the device's heading (straight).
    """

    speed_mean_mps: NotNegative = 38.9
    """Of redraw and highway: mean of the speeds, in m/s, which are drawn from a Gaussian."""

    speed_std_mps: NotNegative = 5.0
    """Of redraw and highway: standard deviation of the speeds, in m/s."""

    speed_min_mps: NotNegative = 20.0
    """Of redraw and highway: least speed, in m/s, where the Gaussian is cut off."""

    speed_max_mps: Positive = 60.0
    """Of redraw and highway: highest speed, in m/s, where the Gaussian is cut off."""

    lanes: Count = 6
    """Of highway: lanes of the road, half of them each way (3GPP TR 36.885, table A.1.2-1)."""

    lane_width_m: Positive = 4.0
    """Of highway: width of a lane in metres (TR 36.885)."""

    road_offset_m: NotNegative = 35.0
    """Of highway: metres from the server to the nearest lane (TR 36.885)."""

    road_m: Positive = 2000.0
    """Of highway: length of the road in metres; who leaves at one end comes in at the other."""

    path: str | None = None
    """Of trace: a file of SUMO's floating car data (.xml), a CSV file of positions, or demo (20
    vehicles on a highway for 600 s, with the server at (0, 0)).
    """

    start_s: float = 0.0
    """Of trace: second of the trace at which the run begins."""

    server_x_m: float = 0.0
    """Of trace: the server's x in the trace, in metres."""

    server_y_m: float = 0.0
    """Of trace: the server's y in the trace, in metres."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        low, high = self.speed_min_mps, self.speed_max_mps
        if not low <= self.speed_mean_mps <= high:
            raise ValueError(
                f"speed_mean_mps is {self.speed_mean_mps:g}, outside speed_min_mps {low:g} to "
                f"speed_max_mps {high:g}: widen the range or change the mean"
            )
        if self.kind == "static" and self.stay == "straight":
            raise ValueError(
                "stay is 'straight' but kind is 'static', whose devices have no heading: set stay "
                "to 'radial' or take another kind"
            )
        if self.kind == "trace" and not self.path:
            raise ValueError("path is missing: kind 'trace' needs a .xml or .csv file of positions")
        if self.kind != "trace" and self.path:
            raise ValueError(
                f"path is {self.path!r} but kind is {self.kind!r}: set kind to 'trace'"
            )
        return self


class EnergySettings(Section):
    """Which energy of a device is counted, and how much a round may take."""

    transmit: bool = True
    """Count what sending takes: radiated watts times seconds, of everything that is sent."""

    forward: bool = False
    """Count what computing forward takes: kappa x cycles x clock^2. ST-SFLora leaves it out."""

    backward: bool = False
    """Count what computing gradients takes, likewise. ST-SFLora leaves it out."""

    cap_j: Positive | None = None
    """Joules that one device may spend in one round (E_max, of which the paper gives no number);
    null: any.
    """


class WorldSettings(Section):
    """The wireless world of a run: it gives every round seconds and joules."""

    bandwidth_hz: Positive = 50e6
    """Bandwidth in Hz that all devices of a round share (W_tot)."""

    carrier_hz: Positive = 3.5e9
    """Carrier frequency in Hz; inferred by us, since the paper gives none."""

    noise_dbm_per_hz: float = -174.0
    """Density of thermal noise in dBm/Hz."""

    noise_figure_db: NotNegative = 0.0
    """Noise that the receiver adds, in dB."""

    server_gain_dbi: float = 0.0
    """Gain of the server's antenna in dBi."""

    device_gain_dbi: float = 0.0
    """Gain of a device's antenna in dBi."""

    snr_gap_db: NotNegative = 0.0
    """Signal-to-noise ratio lost to coding and modulation, in dB; 0, as in the papers, reaches
    Shannon's bound.
    """

    max_bps_per_hz: Positive | None = None
    """Most bit/s for each Hz of bandwidth; null, as in the papers: no bound but Shannon's."""

    path_loss: Literal["log-distance", "umi", "uma"] = "log-distance"
    """log-distance (loss grows by a power of the distance), or 3GPP TR 38.901's urban street canyon
    (umi) or urban macro cell (uma).
    """

    exponent: Positive = 2.5
    """Of log-distance: the power of the distance."""

    reference_m: Positive = 1.0
    """Of log-distance: distance in metres from which the loss grows."""

    reference_loss_db: float | None = None
    """Of log-distance: loss in dB at `reference_m`; null: that of free space at the carrier,
    inferred by us.
    """

    line_of_sight: Literal["drawn", "always", "never"] = "drawn"
    """Of umi and uma: whether a device sees the server: with TR 38.901's probability (drawn),
    always, or never.
    """

    shadowing_db: NotNegative | None = None
    """Standard deviation of shadowing in dB; null: TR 38.901's own, and 0 for log-distance."""

    shadowing_rounds: Count | None = None
    """Rounds for which a device keeps its draw of shadowing; null: the whole run."""

    fading: Literal["none", "rayleigh", "rician"] = "rayleigh"
    """Fading of the received power, drawn for each device and round with mean 1; Rayleigh fading
    is inferred by us from the literature.
    """

    rician_k_db: float = 6.0
    """Of rician: steady over scattered power, in dB."""

    reciprocal: bool = True
    """Whether uplink and downlink have the same fading; without, each has its own draw."""

    server_height_m: Positive | None = None
    """Of umi and uma: height of the server's antenna in metres; null: 10 (umi) or 25 (uma)."""

    device_height_m: Positive = 1.5
    """Of umi and uma: height of devices in metres."""

    rates_path: str | None = None
    """A CSV file (time_s, device, uplink_bps, downlink_bps) whose rates replace the computed
    ones; null: none.
    """

    latency_s: NotNegative = 0.0
    """Seconds that every frame takes one way besides its bits; the papers have none."""

    packet_loss: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of packets that are lost and sent again, as by TCP with BBR, besides what the radio
    itself repeats. The papers have none, and allocators plan without it.
    """

    serving: Literal["fifo", "pooled"] = "fifo"
    """The server takes batches one at a time as they arrive, as in the papers (fifo), or those of
    `training.pool` devices in one pass when the last is there, as ours does (pooled).
    """

    server_power_w: Positive = 1.0
    """Watts that the server radiates; inferred by us."""

    server_flops: Positive | None = None
    """FLOP/s that the server computes; null, as in ST-SFLora: its computing takes no time."""

    coverage_m: Positive = 500.0
    """Radius of the server's coverage in metres (L)."""

    max_stay_s: Positive | None = None
    """Most seconds that a device is taken to stay in coverage; null: no bound."""

    deadline_s: Positive | None = None
    """Seconds after which a round ends: who is not done is left out of it; null: no deadline."""

    fleet: FleetSettings = FleetSettings()
    """Which devices there are and where they start."""

    mobility: MobilitySettings = MobilitySettings()
    """How devices move."""

    energy: EnergySettings = EnergySettings()
    """Which energy of a device is counted."""

    @model_validator(mode="after")
    def _standard_applies(self) -> Self:
        if self.path_loss == "log-distance":
            return self
        name = f"path_loss {self.path_loss!r} (TR 38.901)"
        if not 0.5e9 <= self.carrier_hz <= 100e9:
            raise ValueError(
                f"carrier_hz is {self.carrier_hz:g} but {name} holds from 0.5e9 to 100e9: take a "
                "carrier in that range or path_loss 'log-distance'"
            )
        if not 1.5 <= self.device_height_m <= 13:
            raise ValueError(
                f"device_height_m is {self.device_height_m:g} but {name} is used from 1.5 to 13: "
                "take a height in that range"
            )
        if self.server_height_m is not None and self.server_height_m <= 1.5:
            raise ValueError(
                f"server_height_m is {self.server_height_m:g} but {name} wants more than 1.5: "
                "raise it, or leave it out for the standard's"
            )
        return self

    @model_validator(mode="after")
    def _loss_takes_time(self) -> Self:
        if self.packet_loss and not self.latency_s:
            raise ValueError(
                f"packet_loss is {self.packet_loss:g} but latency_s is 0: what is lost comes a "
                "round trip later, so give latency_s half a round trip"
            )
        return self

    @model_validator(mode="after")
    def _road_crosses_coverage(self) -> Self:
        move = self.mobility
        if move.kind != "highway":
            return self
        if move.road_m < 2 * self.coverage_m:
            raise ValueError(
                f"mobility.road_m is {move.road_m:g} but coverage is {2 * self.coverage_m:g} m "
                "wide: lengthen the road or reduce coverage_m, so that vehicles enter and leave"
            )
        if move.road_offset_m >= self.coverage_m:
            raise ValueError(
                f"mobility.road_offset_m is {move.road_offset_m:g} but coverage_m is "
                f"{self.coverage_m:g}: bring the road nearer or widen the coverage"
            )
        return self

    @model_validator(mode="after")
    def _one_source_of_places(self) -> Self:
        kind = self.mobility.kind
        if self.fleet.path and kind == "redraw":
            raise ValueError(
                "mobility.kind is 'redraw' but fleet.path gives every device its place: "
                "take mobility.kind 'static', or a fleet.preset"
            )
        return self
