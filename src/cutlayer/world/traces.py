"""Recorded positions (SUMO FCD or CSV), looked up by time."""

from __future__ import annotations

import importlib.resources
import math
import re
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

import numpy as np

from cutlayer.errors import WorldError
from cutlayer.world.mobility import Motion
from cutlayer.world.tables import Table, read_table
from cutlayer.world.trace_files import read_file
from cutlayer.world.units import Array, Indices

POSITION_COLUMNS = ("time_s", "device", "x_m", "y_m", "speed_mps")
# A degree is up to 111 km, so degrees change far less than the speed says; metres differ from it by
# a few per cent.
_SMALLER = 1000
_CUT_OFF = (
    expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS],
    expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_TOKEN],
)
_POSITIONS = "world.mobility.path"


@dataclass(frozen=True)
class Track:
    """Samples of M devices, sorted by device and time.

    time_s: [n]. first: [M] index of each device's first sample. count: [M].
    """

    time_s: Array
    first: Indices
    count: Indices

    def last_until(self, time_s: float) -> Indices:
        """Index of each device's last sample at or before `time_s` [M]; first - 1 for no sample."""
        low, high = self.first.copy(), self.first + self.count
        while (open_ := low < high).any():
            middle = (low + high) // 2
            early = self.time_s[np.where(open_, middle, 0)] <= time_s
            low = np.where(open_ & early, middle + 1, low)
            high = np.where(open_ & ~early, middle, high)
        return low - 1


@dataclass(frozen=True)
class PositionTrace:
    """Positions of M devices, linear between samples; a device is present from its first to its
    last sample."""

    where: str
    track: Track
    x_m: Array
    y_m: Array
    speed_mps: Array

    def at(self, time_s: float) -> Motion:
        """Places at the trace's own time. Raises WorldError outside the trace."""
        times, track = self.track.time_s, self.track
        if not times.min() <= time_s <= times.max():
            raise WorldError(
                f"{self.where} runs from {times.min():g} to {times.max():g} s but the run asks "
                f"for {time_s:g} s: record a longer trace, change mobility.start_s or train fewer "
                "rounds"
            )
        last = track.first + track.count - 1
        index = track.last_until(time_s)
        present = (index >= track.first) & (time_s <= times[last])
        here = np.maximum(index, track.first)
        after = np.minimum(here + 1, last)
        span = np.where(after > here, times[after] - times[here], 1.0)
        part = np.where(present, (time_s - times[here]) / span, 0.0)
        dx, dy = self.x_m[after] - self.x_m[here], self.y_m[after] - self.y_m[here]
        return Motion(
            x_m=self.x_m[here] + part * dx,
            y_m=self.y_m[here] + part * dy,
            vx_mps=dx / span,
            vy_mps=dy / span,
            speed_mps=self.speed_mps[here],
            present=present,
        )


def read_positions(path: str | Path, devices: int) -> PositionTrace:
    """A position trace: SUMO FCD when the file is XML, else CSV; either may be compressed.

    SUMO's vehicles become devices 0, 1, ... in the order in which they first appear; those after
    the first `devices` are left out. Coordinates are metres: degrees, as of SUMO's geo option, are
    refused.
    "demo" is the bundled trace of 20 vehicles on a highway (cutlayer world sumo wrote it).
    Raises WorldError for what cannot be used, and when there are fewer vehicles than devices.
    """
    if path == "demo":
        bundled = importlib.resources.files("cutlayer.assets") / "highway-trace.csv"
        with importlib.resources.as_file(bundled) as file:
            return read_positions(file, devices)
    if any(suffix.lower() == ".xml" for suffix in Path(path).suffixes):
        return _read_fcd(Path(path), devices)
    table = read_table(path, POSITION_COLUMNS, _POSITIONS)
    table.refuse("speed_mps", table.columns["speed_mps"] < 0, "give a speed of 0 or more")
    track, order = csv_track(table, devices)
    x_m, y_m, speed = (table.columns[name][order] for name in POSITION_COLUMNS[2:])
    _refuse_degrees(table.where, track, x_m, y_m, speed)
    return PositionTrace(table.where, track, x_m, y_m, speed)


def csv_track(table: Table, devices: int) -> tuple[Track, Indices]:
    """The track of a table with columns time_s and device, and the indices of its rows [n]."""
    number = table.columns["device"]
    table.refuse("device", number != np.floor(number), "number devices 0, 1, 2, ...")
    owner = number.astype(np.int64)
    table.refuse(
        "device", (owner < 0) | (owner >= devices), f"number devices from 0 to {devices - 1}"
    )
    track, order = _track(table.columns["time_s"], owner, devices)
    missing = track.count == 0
    if missing.any():
        raise WorldError(
            f"{table.where} has no row of device {np.argmax(missing)}: give every one of the "
            f"{devices} devices a row, or lower devices.count"
        )
    times = table.columns["time_s"]
    repeated = np.zeros(len(times), dtype=bool)
    same = (np.diff(times[order]) == 0) & (np.diff(owner[order]) == 0)
    repeated[order[1:]] = same
    table.refuse("time_s", repeated, "this device has a row at this time already, remove one")
    return track, order


def _track(times: Array, owner: Indices, devices: int) -> tuple[Track, Indices]:
    order = np.lexsort((times, owner)).astype(np.int64)
    count = np.bincount(owner, minlength=devices).astype(np.int64)
    return Track(times[order], np.cumsum(count) - count, count), order


def _read_fcd(file: Path, devices: int) -> PositionTrace:
    where = f"{_POSITIONS}: {file.name}"
    content = read_file(file, _POSITIONS)
    numbers: dict[str, int] = {}
    rows: list[tuple[float, ...]] = []
    now = math.nan
    parser = expat.ParserCreate()

    def refuse_doctype(*_: object) -> None:
        # Without a document type there are no entities that could expand.
        raise WorldError(f"{where} declares a document type: remove the DOCTYPE, SUMO writes none")

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal now
        line = f"{where}, line {parser.CurrentLineNumber}"
        if name == "timestep":
            now = _attribute(attributes, "time", line)
        elif name == "vehicle":
            number = numbers.setdefault(attributes.get("id", ""), len(numbers))
            if number < devices:
                x, y, speed = (_attribute(attributes, key, line) for key in ("x", "y", "speed"))
                rows.append((now, number, x, y, speed))

    parser.StartDoctypeDeclHandler = refuse_doctype

    def comment(text: str) -> None:
        # SUMO writes its options into a comment at the top.
        if re.search(r"""fcd-output\.geo\s+value=["'](true|1|yes)""", text):
            raise _degrees(where)

    parser.StartElementHandler = start
    parser.CommentHandler = comment
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        if not math.isnan(now) and error.code in _CUT_OFF:
            raise WorldError(
                f"{where} is unfinished, it ends in line {error.lineno} at second {now:g}: wait "
                "until SUMO has written it, or close its last elements"
            ) from None
        raise WorldError(f"{where} is not XML ({error}): give SUMO's fcd-output") from None
    if len(numbers) < devices:
        raise WorldError(
            f"{where} has {len(numbers)} vehicles but devices.count is {devices}: record more "
            f"traffic or set devices.count={len(numbers)}"
        )
    values = np.array(rows, dtype=np.float64)
    track, order = _track(values[:, 0], values[:, 1].astype(np.int64), devices)
    x_m, y_m, speed = values[order, 2:].T.copy()
    _refuse_degrees(where, track, x_m, y_m, speed)
    return PositionTrace(where, track, x_m, y_m, speed)


def _refuse_degrees(where: str, track: Track, x: Array, y: Array, speed_mps: Array) -> None:
    """Raise WorldError where coordinates are degrees: they change far too little for the speed."""
    if (np.abs(x) > 180).any() or (np.abs(y) > 90).any():
        return
    seconds = np.diff(track.time_s)
    same = seconds > 0  # of one device: at the next device's first sample, time starts again
    same[(track.first[1:] - 1)[track.count[1:] > 0]] = False
    driven = (seconds * (speed_mps[:-1] + speed_mps[1:]) / 2)[same].sum()
    moved = np.hypot(np.diff(x), np.diff(y))[same].sum()
    if driven > 1 and 0 < moved < driven / _SMALLER:
        raise _degrees(where)


def _degrees(where: str) -> WorldError:
    return WorldError(
        f"{where} gives longitudes and latitudes in degrees: write the positions in metres "
        "(SUMO: without --fcd-output.geo)"
    )


def _attribute(attributes: dict[str, str], key: str, line: str) -> float:
    try:
        number = float(attributes[key])
    except (KeyError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise WorldError(
            f"{line}: {key} is {attributes.get(key)!r}: write SUMO's fcd-output with the "
            "attributes x, y and speed"
        )
    return number
