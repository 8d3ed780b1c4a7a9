"""The devices of a run as arrays: where they start, how fast they compute, what they may radiate.

Board figures are peaks from data sheets (float32 FLOPs per cycle and core at the highest clock);
real networks reach a part of them, so lower `flops_per_cycle` in a CSV to what you measured. The
energy coefficient of a board is its power under load over clock^3, so that computing costs that
power times its time; idle draw is not charged apart. The radio is assumed to be a 5G power class 3
modem (3GPP TS 38.101-1, clause 6.2.1: 23 dBm, 0.2 W).

- phones: ST-SFLora's class (arXiv 2605.26120): clock uniform in 1.0-1.5 GHz, 4 to 6 cores, 1 FLOP
  a cycle and core, 0.2 W. Inferred by us: energy coefficient 1e-27 (2 W at 1.25 GHz), 8 GiB.
- raspberry-pi-4: product brief: BCM2711, four Cortex-A72, 1.8 GHz since 2021, 8 GB version. Peak
  8 FLOPs: one 128-bit FMA a cycle. 7.2 W at the wall in HPL, where it reached 11.8 Gflop/s of
  the 28.8 of its float64 peak (github.com/geerlingguy/sbc-reviews, issue 4).
- raspberry-pi-5: product brief: BCM2712, four Cortex-A76, 2.4 GHz, 8 GB version. Peak 16 FLOPs:
  two 128-bit FMAs. 11 W and 30.2 Gflop/s of 76.8 in HPL (geerlingguy/top500-benchmark, issue 18).
- jetson-nano: NVIDIA's module data sheet: 128 Maxwell CUDA cores, 921.6 MHz, 4 GB, 10 W mode. Peak
  2 FLOPs: one FMA a core.
- jetson-orin-nano: data sheet of the 8 GB module: 1024 Ampere CUDA cores, 625 MHz, 15 W mode; peak
  2 FLOPs a core, tensor cores left out.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cutlayer.errors import WorldError
from cutlayer.seeds import numpy_rng
from cutlayer.settings.places import FleetSettings
from cutlayer.world.draws import drawn_for, uniform
from cutlayer.world.tables import read_table
from cutlayer.world.units import Array, Flags, Indices, array

DATA_SIZE = 500
"""Number of samples of a preset's device until the run's data says otherwise; inferred by us from
SFLAM's public code, which has 400 to 500."""


class Board(NamedTuple):
    """Peak figures of a board: Hz, cores, FLOPs a cycle and core, bytes, watts under load.

    clock_hz: of a core. cores: how many. flops_per_cycle: of one core. memory_bytes: in all.
    load_w: watts with all cores at work.
    """

    clock_hz: float
    cores: int
    flops_per_cycle: float
    memory_bytes: float
    load_w: float


BOARDS = {
    "raspberry-pi-4": Board(1.8e9, 4, 8, 8e9, 7.2),
    "raspberry-pi-5": Board(2.4e9, 4, 16, 8e9, 11.0),
    "jetson-nano": Board(921.6e6, 128, 2, 4e9, 10.0),
    "jetson-orin-nano": Board(625e6, 1024, 2, 8e9, 15.0),
}
_SIGNED = ("x_m", "y_m")
_MAY_BE_ZERO = ("speed_mps", "energy_coefficient")


@dataclass(frozen=True)
class Fleet:
    """M devices; every field is a float64 array [M].

    x_m, y_m: start, with the server at (0, 0). speed_mps: metres a second. clock_hz: of a core.
    cores: how many. flops_per_cycle: of one core. power_max_w: radiated. energy_coefficient: kappa
    in W s^3, so that kappa f^3 is the power of the whole processor at clock f. memory_bytes: in
    all. data_size: samples.
    Raises WorldError for arrays of unequal length or a value out of range.
    """

    x_m: Array
    y_m: Array
    speed_mps: Array
    clock_hz: Array
    cores: Array
    flops_per_cycle: Array
    power_max_w: Array
    energy_coefficient: Array
    memory_bytes: Array
    data_size: Array

    def __post_init__(self) -> None:
        for name in FIELDS:
            values = getattr(self, name)
            if values.shape != (self.devices,):
                raise WorldError(
                    f"fleet: {name} has shape {values.shape} but x_m has {self.x_m.shape}: "
                    "give one number a device"
                )
            bad = ~np.isfinite(values) | _out_of_range(name, values)
            if bad.any():
                device = int(np.argmax(bad))
                raise WorldError(
                    f"fleet: {name} of device {device} is {values[device]:g}: {_remedy(name)}"
                )

    @property
    def devices(self) -> int:
        """How many devices there are (M)."""
        return len(self.x_m)

    @property
    def flops(self) -> Array:
        """FLOP/s [M]: clock * cores * FLOPs a cycle and core."""
        return self.clock_hz * self.cores * self.flops_per_cycle

    def take(self, indices: npt.ArrayLike) -> Fleet:
        """The devices at `indices`, in that order."""
        return Fleet(**{name: getattr(self, name)[indices] for name in FIELDS})

    def with_data(self, sizes: npt.ArrayLike) -> Fleet:
        """The same devices with `sizes` [M] samples each."""
        return replace(self, data_size=array(sizes))


FIELDS = tuple(field.name for field in fields(Fleet))


def make_fleet(
    settings: FleetSettings, devices: int, seed: int, only: Indices | None = None
) -> Fleet:
    """The fleet of `devices` devices that a job's settings ask for.

    settings: `world.fleet` of a job. seed: of the job.
    only: the numbers of the devices to return, in their order; None: all. Raises WorldError if the
    CSV has another number of rows.
    """
    wanted = np.arange(devices) if only is None else only
    if settings.path is not None:
        fleet = read_fleet(settings.path)
        if fleet.devices != devices:
            raise WorldError(
                f"world.fleet.path: {Path(settings.path).name} has {fleet.devices} rows but "
                f"devices.count is {devices}: set devices.count={fleet.devices} or change the file"
            )
        return fleet.take(wanted)
    names = (settings.preset,) if isinstance(settings.preset, str) else settings.preset
    x_m, y_m = place(settings, wanted, seed, "fleet", "place")
    clock = 1.0e9 + 0.5e9 * drawn_for(wanted, numpy_rng(seed, "fleet", "clock"), uniform)
    cores = drawn_for(wanted, numpy_rng(seed, "fleet", "cores"), _cores)
    phone = Board(0.0, 0, 1, 8 * 2.0**30, 0.0)
    kind = wanted % len(names)
    per_cycle, memory, kappa = (np.empty(len(wanted)) for _ in range(3))
    for index, name in enumerate(names):
        board, mine = BOARDS.get(name, phone), kind == index
        per_cycle[mine], memory[mine] = board.flops_per_cycle, board.memory_bytes
        if board is not phone:
            clock[mine], cores[mine] = board.clock_hz, board.cores
        kappa[mine] = 1e-27 if board is phone else board.load_w / board.clock_hz**3
    return Fleet(
        x_m=x_m,
        y_m=y_m,
        speed_mps=np.zeros(len(wanted)),
        clock_hz=clock,
        cores=cores,
        flops_per_cycle=per_cycle,
        power_max_w=np.full(len(wanted), 0.2),
        energy_coefficient=kappa,
        memory_bytes=memory,
        data_size=np.full(len(wanted), float(DATA_SIZE)),
    )


def _cores(rng: np.random.Generator, count: int) -> Array:
    return rng.integers(4, 7, count).astype(np.float64)


def read_fleet(path: str | Path) -> Fleet:
    """A fleet from a CSV file, one row a device, columns named as the fields of `Fleet`.

    path: of the file.
    Raises WorldError naming line, column and remedy.
    """
    table = read_table(path, FIELDS, "world.fleet.path")
    for name in FIELDS:
        table.refuse(name, _out_of_range(name, table.columns[name]), _remedy(name))
    return Fleet(**table.columns)


def place(
    settings: FleetSettings, devices: Indices, seed: int, *purpose: int | str
) -> tuple[Array, Array]:
    """Places of some devices around the server, by settings.placement: x_m, y_m, [m] each.

    settings: `world.fleet` of a job. devices: [m] numbers. seed, purpose: what the draw hangs on.
    """
    near, far = settings.min_distance_m, settings.max_distance_m
    part = drawn_for(devices, numpy_rng(seed, *purpose, "distance"), uniform)
    if settings.placement == "area":
        distance = np.sqrt(near**2 + (far**2 - near**2) * part)
    else:
        distance = near + (far - near) * part
    angle = 2 * np.pi * drawn_for(devices, numpy_rng(seed, *purpose, "angle"), uniform)
    return distance * np.cos(angle), distance * np.sin(angle)


def _out_of_range(name: str, values: Array) -> Flags:
    if name in _SIGNED:
        return np.zeros(values.shape, dtype=bool)
    return values < 0 if name in _MAY_BE_ZERO else values <= 0


def _remedy(name: str) -> str:
    if name in _SIGNED:
        return "give a finite number"
    return f"give a number {'of 0 or more' if name in _MAY_BE_ZERO else 'above 0'}"
