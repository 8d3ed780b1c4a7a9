"""The world section of a job: radio, places, movement, energy and time, in SI units.

The defaults are the setting of ST-SFLora (arXiv 2605.26120) where the paper gives one; where it
does not, the field's text says [I], inferred.
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
    """Which devices there are and where they start.

    preset: a kind of device (see `cutlayer.world.fleet`), or several, dealt in turn.
    path: a CSV file with one row a device instead; its columns are the fields of `Fleet`.
    placement: presets only: uniform in distance from the server [I: ST-SFLora's "uniform in
    5-500 m"], or uniform over the area between the two distances.
    """

    preset: Preset | Annotated[tuple[Preset, ...], Field(min_length=1)] = "phones"
    path: str | None = None
    placement: Literal["distance", "area"] = "distance"
    min_distance_m: NotNegative = 5.0
    max_distance_m: Positive = 500.0

    @model_validator(mode="after")
    def _ring_is_not_empty(self) -> Self:
        if self.min_distance_m >= self.max_distance_m:
            raise ValueError(
                f"min_distance_m is {self.min_distance_m:g} but max_distance_m is "
                f"{self.max_distance_m:g}: make the first the smaller"
            )
        return self


class MobilitySettings(Section):
    """How devices move.

    kind: static (places and speeds as in the fleet; a preset's speed is 0); redraw (every round
    finds them at new places with new speeds and headings: ST-SFLora's formulas know no more than
    distance and speed [I]); highway; or trace (positions replayed from `path`).
    stay: time left in coverage: radial is ST-SFLora's (L - l)/v; straight keeps the heading,
    which static devices do not have.
    speed_*: a Gaussian truncated to [min, max], for redraw and highway.
    lanes, lane_width_m, road_offset_m, road_m: a straight road past the server, half of the lanes
    each way, the nearest road_offset_m from the server; who leaves one end enters at the other.
    Defaults: freeway of 3GPP TR 36.885, table A.1.2-1: 3 + 3 lanes of 4 m, 2 km, 140 km/h;
    server 35 m off the road.
    path: SUMO FCD (.xml), CSV (time_s, device, x_m, y_m, speed_mps), or "demo" (bundled: 20
    vehicles for 600 s on a highway with the server at (0, 0), by SUMO); start_s is the trace's
    time at which the run starts; server_x_m, server_y_m is the server's place in it.
    """

    kind: Literal["static", "redraw", "highway", "trace"] = "static"
    stay: Literal["radial", "straight"] = "radial"
    speed_mean_mps: NotNegative = 38.9
    speed_std_mps: NotNegative = 5.0
    speed_min_mps: NotNegative = 20.0
    speed_max_mps: Positive = 60.0
    lanes: Count = 6
    lane_width_m: Positive = 4.0
    road_offset_m: NotNegative = 35.0
    road_m: Positive = 2000.0
    path: str | None = None
    start_s: float = 0.0
    server_x_m: float = 0.0
    server_y_m: float = 0.0

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
    """What a device's energy counts, and how much a round may take.

    transmit: p T of everything sent. forward, backward: kappa cycles f^2 of computing; both off
    as in ST-SFLora, which models transmission only.
    cap_j: of one device in one round (E_max); the paper gives no number.
    """

    transmit: bool = True
    forward: bool = False
    backward: bool = False
    cap_j: Positive | None = None


class WorldSettings(Section):
    """The wireless world of a run.

    bandwidth_hz: shared by all devices of a round (W_tot). noise_dbm_per_hz: thermal density;
    noise_figure_db adds the receiver's. snr_gap_db and max_bps_per_hz: distance from Shannon's
    bound and a cap of spectral efficiency; off as in the papers.
    path_loss: log-distance (with `exponent` beyond reference_m; reference_loss_db None is free
    space at the carrier [I]: the paper gives no carrier), or TR 38.901 UMi street canyon or UMa.
    line_of_sight: for TR 38.901: drawn with its probability, or always, or never.
    shadowing_db: standard deviation; None is TR 38.901's own, and 0 for log-distance. A device
    keeps its draw for shadowing_rounds rounds, None: for the whole run.
    fading: power of the block fading of a round, mean 1; Rayleigh [I] as in the literature.
    reciprocal: one draw for both directions.
    server_height_m: None is TR 38.901's: 10 m (UMi), 25 m (UMa).
    rates_path: CSV (time_s, device, uplink_bps, downlink_bps) whose rates replace the computed.
    latency_s: of every frame one way, beyond the time that its bits take; none in the papers.
    packet_loss: share of packets lost on the way and sent again, by TCP with BBR (see
    world/packet_loss.py);
    the radio's own repeats are in its rate. None in the papers. Allocators plan without it.
    serving: fifo: the server takes batches one at a time, as they arrive, as in the papers. pooled:
    those of `training.pool` devices in one pass, once the last has arrived, as ours does.
    server_power_w: broadcast power [I]. server_flops: FLOP/s of the server; None: its computing
    takes no time, as in ST-SFLora.
    coverage_m: radius L. max_stay_s: t_bar, None for no bound. deadline_s: of a round.
    """

    bandwidth_hz: Positive = 50e6
    carrier_hz: Positive = 3.5e9
    noise_dbm_per_hz: float = -174.0
    noise_figure_db: NotNegative = 0.0
    server_gain_dbi: float = 0.0
    device_gain_dbi: float = 0.0
    snr_gap_db: NotNegative = 0.0
    max_bps_per_hz: Positive | None = None
    path_loss: Literal["log-distance", "umi", "uma"] = "log-distance"
    exponent: Positive = 2.5
    reference_m: Positive = 1.0
    reference_loss_db: float | None = None
    line_of_sight: Literal["drawn", "always", "never"] = "drawn"
    shadowing_db: NotNegative | None = None
    shadowing_rounds: Count | None = None
    fading: Literal["none", "rayleigh", "rician"] = "rayleigh"
    rician_k_db: float = 6.0
    reciprocal: bool = True
    server_height_m: Positive | None = None
    device_height_m: Positive = 1.5
    rates_path: str | None = None
    latency_s: NotNegative = 0.0
    packet_loss: Annotated[float, Field(ge=0, lt=1)] = 0.0
    serving: Literal["fifo", "pooled"] = "fifo"
    server_power_w: Positive = 1.0
    server_flops: Positive | None = None
    coverage_m: Positive = 500.0
    max_stay_s: Positive | None = None
    deadline_s: Positive | None = None
    fleet: FleetSettings = FleetSettings()
    mobility: MobilitySettings = MobilitySettings()
    energy: EnergySettings = EnergySettings()

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
