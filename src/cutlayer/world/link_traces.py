"""Recorded rates, or recorded channel gains, of each device's link (CSV), looked up by time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cutlayer.errors import WorldError
from cutlayer.world.tables import read_table
from cutlayer.world.traces import Track, csv_track
from cutlayer.world.units import Array

RATE_COLUMNS = ("time_s", "device", "uplink_bps", "downlink_bps")
GAIN_COLUMNS = ("time_s", "device", "uplink_db", "downlink_db")

MOST_LOSS_DB = 400.0
"""No receiver hears a signal weaker than this loss in dB; the bound keeps rates above 0."""


@dataclass(frozen=True)
class LinkTrace:
    """A recorded number, a rate or a gain, for each direction of the links of M devices.

    A row holds until the device's next row; the device's last row ends its trace. what: "rates" or
    "gains", for messages.
    """

    where: str
    what: str
    track: Track
    up: Array
    down: Array

    def at(self, time_s: float) -> tuple[Array, Array]:
        """The numbers up and down, [M] each. Raises WorldError outside the time of a trace."""
        track = self.track
        index = track.last_until(time_s)
        begin, end = track.time_s[track.first], track.time_s[track.first + track.count - 1]
        bad = (index < track.first) | (time_s > end)
        if bad.any():
            device = int(bad.argmax())
            raise WorldError(
                f"{self.where} has {self.what} of device {device} from {begin[device]:g} to "
                f"{end[device]:g} s but the run asks for {time_s:g} s: record a longer trace or "
                "train fewer rounds"
            )
        return self.up[index], self.down[index]


def read_rates(path: str | Path, devices: int) -> LinkTrace:
    """Rates in bit/s from a CSV with columns time_s, device, uplink_bps, downlink_bps.

    device: 0..M-1. A rate of 0 is an outage. Raises WorldError for what cannot be used.
    """
    table = read_table(path, RATE_COLUMNS, "world.rates_path")
    for name in RATE_COLUMNS[2:]:
        table.refuse(name, table.columns[name] < 0, "give a rate of 0 or more")
    track, order = csv_track(table, devices)
    up, down = (table.columns[name][order] for name in RATE_COLUMNS[2:])
    return LinkTrace(table.where, "rates", track, up, down)


def read_gains(path: str | Path, devices: int) -> LinkTrace:
    """Channel gains in dB from a CSV with columns time_s, device, uplink_db, downlink_db.

    A gain is the ratio of received to sent power, so it is below 0 dB; path loss, shadowing,
    antennas and fading are in it. device: 0..M-1. Raises WorldError for what cannot be used.
    """
    table = read_table(path, GAIN_COLUMNS, "world.gains_path")
    for name in GAIN_COLUMNS[2:]:
        gain = table.columns[name]
        remedy = "give received over sent power, below 0 dB (a loss has the other sign)"
        table.refuse(name, gain >= 0, remedy)
        table.refuse(name, gain < -MOST_LOSS_DB, f"no link loses more than {MOST_LOSS_DB:g} dB")
    track, order = csv_track(table, devices)
    up, down = (table.columns[name][order] for name in GAIN_COLUMNS[2:])
    return LinkTrace(table.where, "gains", track, up, down)
