"""Fleet and mobility of a job's world: which devices there are, where, and how they move."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cutlayer.settings.precision import Precision
from cutlayer.settings.section import Count, NotNegative, Positive, Section

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

    float16_speed: Positive | None = None
    """How many times as fast devices run their blocks in float16 as in float32: milliseconds of
    `cutlayer join --light --probe` divided by those with `--precision float16`. The seconds and
    joules of computing are divided by it. null: not known; float16 may then not be among
    method.allocation.precisions.
    """

    int8_speed: Positive | None = None
    """How many times as fast devices run their blocks in int8 as in float32: see float16_speed."""

    def speed(self, precision: Precision, cut: int) -> float:
        """How many times as fast as in float32 a device computes `cut` blocks in `precision`.

        Without a block there is nothing to compute faster. Raises ValueError if it is not set;
        train/check_light.py refuses such jobs.
        """
        if cut == 0:
            return 1.0
        found = {"float32": 1.0, "float16": self.float16_speed, "int8": self.int8_speed}[precision]
        if found is None:
            raise ValueError(f"world.fleet.{precision}_speed is not set")
        return found

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
