"""The world section of a job: radio, places, movement, energy and time, in SI units.

The defaults are the setting of ST-SFLora (arXiv 2605.26120) where the paper gives one; a field's
explanation says so where its default was inferred by us.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from cutlayer.settings.places import FleetSettings, MobilitySettings
from cutlayer.settings.section import Count, NotNegative, Positive, Section

Scenario = Literal["umi", "uma"]
SCENARIOS: tuple[Scenario, ...] = ("umi", "uma")
PATH_LOSSES = ("log-distance", *SCENARIOS)
FADINGS = ("none", "rayleigh", "rician")


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

    path_loss: str = "log-distance"
    """log-distance (loss grows by a power of the distance), 3GPP TR 38.901's urban street canyon
    (umi) or urban macro cell (uma), or `module:FUNCTION` for one's own.
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
    """Standard deviation of shadowing in dB; null: TR 38.901's own of umi and uma, else 0."""

    shadowing_rounds: Count | None = None
    """Rounds for which a device keeps its draw of shadowing; null: the whole run."""

    fading: str = "rayleigh"
    """Fading of the received power, drawn for each device and round with mean 1: none, rayleigh
    (inferred by us from the literature), rician, or `module:FUNCTION` for one's own.
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

    gains_path: str | None = None
    """A CSV file (time_s, device, uplink_db, downlink_db) whose channel gains in dB replace path
    loss, shadowing, antennas and fading; null: none.
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

    @property
    def urban(self) -> Scenario | None:
        """The scenario of TR 38.901 that gives the path loss, if one does."""
        return next((one for one in SCENARIOS if one == self.path_loss), None)

    @property
    def own_code(self) -> dict[str, str]:
        """What may be a function of one's own, by the setting that names it."""
        return {"world.path_loss": self.path_loss, "world.fading": self.fading}

    @field_validator("path_loss")
    @classmethod
    def _known_path_loss(cls, name: str) -> str:
        return _known("path loss", name, PATH_LOSSES)

    @field_validator("fading")
    @classmethod
    def _known_fading(cls, name: str) -> str:
        return _known("fading", name, FADINGS)

    @model_validator(mode="after")
    def _one_source_of_rates(self) -> Self:
        if self.rates_path and self.gains_path:
            raise ValueError(
                f"rates_path is {self.rates_path!r} and gains_path {self.gains_path!r}, but rates "
                "follow from gains: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _standard_applies(self) -> Self:
        if self.urban is None:
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


def _known(what: str, name: str, published: tuple[str, ...]) -> str:
    """The name of a published choice or of code of one's own. Raises ValueError for another."""
    if name not in published and ":" not in name:
        raise ValueError(
            f"no {what} is called {name!r}: take one of {', '.join(published)}, or "
            "package.module:FUNCTION for your own"
        )
    return name
