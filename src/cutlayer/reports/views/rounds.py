"""A round at a time: who got what, when each stage happened, and where the devices were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cutlayer.allocate.round_shape import Traffic
from cutlayer.record.rows import MOST_MEASURED, Row
from cutlayer.reports.views.pack import View, pack, plain, spread
from cutlayer.reports.views.runs import STAGES, Places, Run

CELLS = 100_000
"""Turns of devices that a view of one run holds at most; longer runs are thinned to it."""


@dataclass(frozen=True)
class Quantity:
    """Something that a device gets or spends in a round, and how to read it from the record."""

    key: str
    title: str
    unit: str
    value: Callable[[Row, int, int], float | None]
    log: bool = False


def _tokens(row: Row, device: int, whole: int) -> float:
    tokens = row.decisions[device].tokens
    return whole if tokens is None else tokens


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else value * by


QUANTITIES = (
    Quantity("cut", "cut", "blocks on the device", lambda row, m, _: row.decisions[m].cut),
    Quantity("tokens", "tokens", "kept of a sample", _tokens),
    Quantity("bits", "bits", "of an activation", lambda row, m, _: row.decisions[m].sent_bits),
    Quantity(
        "bandwidth",
        "bandwidth",
        "MHz",
        lambda row, m, _: _scaled(row.decisions[m].bandwidth_hz, 1e-6),
        log=True,
    ),
    Quantity(
        "power", "power", "mW", lambda row, m, _: _scaled(row.decisions[m].power_w, 1e3), log=True
    ),
    Quantity(
        "up",
        "sent up",
        "MB",
        lambda row, m, _: Traffic(*row.traffic[m]).up / 1e6 if m in row.traffic else 0,
    ),
    Quantity("joules", "energy", "J", lambda row, m, _: row.joules.get(m), log=True),
    Quantity(
        "clipped",
        "update scaled down",
        "times larger than its bound",
        lambda row, m, _: row.clipped.get(m),
        log=True,
    ),
    Quantity("loss", "training loss", "", lambda row, m, _: row.device_loss.get(m)),
)


def allocation(run: Run, cells: int = CELLS) -> View:
    """Cut, tokens, bits, bandwidth, power, bytes, joules and loss by device and round."""
    count = 1 if run.job.method.pooled else min(run.job.devices.count, MOST_MEASURED)
    turns = sum(len(row.decisions) for row in run.rows)
    kept = spread(range(len(run.rows)), max(2, len(run.rows) * cells // max(cells, turns)))
    rows = [run.rows[i] for i in kept]
    quantities, alike = [], []
    for quantity in QUANTITIES:
        values = np.full((count, len(rows)), np.nan)
        for column, row in enumerate(rows):
            for device in row.decisions:
                if device >= count:
                    continue
                value = quantity.value(row, device, run.whole)
                values[device, column] = np.nan if value is None else value
        found = values[np.isfinite(values)]
        if not found.size or (quantity.key == "tokens" and not found.any()):
            continue
        shown: View = {"key": quantity.key, "title": quantity.title, "unit": quantity.unit}
        if quantity.key == "tokens":
            shown["all"] = run.whole
        if found.min() == found.max():
            alike.append(shown | {"value": plain(float(found[0]))})
            continue
        log = quantity.log and found.min() > 0 and found.max() > 20 * found.min()
        packed = pack(values, "log" if quantity.log else "linear")
        quantities.append(shown | {"log": bool(log), "values": packed})
    some = f" Shown are {len(rows)} of {len(run.rows)} rounds." if len(rows) < len(run.rows) else ""
    return {
        "kind": "allocation",
        "id": "allocation",
        "title": "Who got what",
        "text": f"What {run.job.method.name} gave each device in each round, and what the device "
        f"then sent and spent.{some}",
        "data": {
            "rounds": [row.round + 1 for row in rows],
            "devices": count,
            "names": run.called(count),
            "quantities": quantities,
            "alike": alike,
            "missed": [_missed(row) for row in rows],
            "seconds": plain([[row.virtual_s, row.planned_s] for row in rows]),
        },
    }


def _missed(row: Row) -> dict[int, str]:
    """Why turns of a round did not count, by device."""
    return {
        **row.left_out,
        **dict.fromkeys(row.late, "too late"),
        **dict.fromkeys(row.lost, "lost"),
    }


def gantt(run: Run) -> View:
    """When each stage happened on each device; times as fractions of the round's last end."""
    rounds, every = run.rounds, len(run.rows)
    place = np.concatenate([one.place for one in rounds])
    stage = np.concatenate([one.stage for one in rounds])
    last = [max(one.duration_s, one.end_s.max(initial=0.0)) or 1.0 for one in rounds]
    scale = np.repeat(last, [len(one.place) for one in rounds])
    start = np.concatenate([one.start_s for one in rounds]) / scale
    end = np.concatenate([one.end_s for one in rounds]) / scale
    some = f" Shown are {len(rounds)} of {every} rounds." if len(rounds) < every else ""
    return {
        "kind": "gantt",
        "id": "gantt",
        "title": "The round's timeline",
        "text": f"When each stage happened on the virtual clock, a line a device.{some}",
        "data": {
            "stages": list(STAGES),
            "rounds": [one.round + 1 for one in rounds],
            "seconds": plain([one.duration_s for one in rounds]),
            "last": plain(last),
            "devices": [list(one.devices) for one in rounds],
            "names": dict(run.names),
            "late": [list(one.late) for one in rounds],
            "sizes": [len(one.place) for one in rounds],
            "place": pack(place),
            "stage": pack(stage),
            "start": pack(start),
            "end": pack(end),
        },
    }


def fleet(run: Run, places: Places) -> View:
    """The map: places, coverage, speeds and link rates at the start of each round."""
    rows = {row.round: row for row in run.rows}
    moving = bool((places.x_m != places.x_m[0]).any() or (places.y_m != places.y_m[0]).any())
    covered = places.in_coverage
    share = covered.mean()
    every = len(run.rows)
    some = f" Shown are {len(places.rounds)} of {every} rounds." * (len(places.rounds) < every)
    whole, shown = f"{run.job.devices.count} devices", places.x_m.shape[1]
    numbers = range(shown) if places.devices is None else places.devices
    if places.devices is not None:
        whole = f"{shown} of {whole}, those that were drawn,"
    place = {device: at for at, device in enumerate(numbers)}
    cohorts = [
        [place[device] for device in rows[number].decisions if device in place]
        for number in places.rounds
    ]
    return {
        "kind": "fleet",
        "id": "fleet",
        "title": "The fleet on the map",
        "text": f"{whole} around the server; in coverage "
        f"{100 * share:.0f} % of the time. Rates are at full power and an equal share of the band "
        f"among those in coverage; rings mark who took part.{some}",
        "data": {
            "rounds": [number + 1 for number in places.rounds],
            "coverage_m": places.coverage_m,
            # Devices that stand still need to be said once.
            "x": pack(places.x_m if moving else places.x_m[:1]),
            "y": pack(places.y_m if moving else places.y_m[:1]),
            "speed": pack(places.speed_mps),
            "rate": pack(np.where(places.uplink_bps > 0, places.uplink_bps / 1e6, np.nan), "log"),
            "covered": pack(covered.astype(float)),
            # Places among those that are shown, and what the devices there are called.
            "cohorts": cohorts,
            "numbers": None if places.devices is None else list(numbers),
            "names": dict(run.names),
        },
    }
