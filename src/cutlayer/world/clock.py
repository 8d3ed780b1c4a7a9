"""The virtual clock: when every stage of a round starts and ends on every device, in seconds.

Pure functions from durations to a `Timeline`; time 0 is the start of the round. A device computes,
sends and waits in order. Where gradients come back, a step's forward pass waits for the backward
pass before it. One-way devices wait for nothing: the next forward pass overlaps the sending of the
last, and the server takes each device's steps in order. tail_clock.py times rounds whose last
blocks are on devices.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Literal

import numpy as np

from cutlayer.world import tail_clock
from cutlayer.world.timeline import STAGES, STEP_STAGES, Durations, Stage, Timeline
from cutlayer.world.units import Array, Flags

_STAGES: tuple[Stage, ...] = ("forward", "uplink", "server", "downlink", "backward")
Serving = Literal["fifo", "pooled", "unlimited"]


def parallel(
    times: Durations,
    server: Serving = "fifo",
    deadline_s: float | None = None,
    pools: Sequence[Sequence[int]] | None = None,
) -> Timeline:
    """A round of devices side by side.

    server: how the server takes batches. fifo: one batch at a time, in order of arrival, ties by
    step and device. pooled: one pass for all batches of a pool in a step; it starts when the last
    of them has arrived and takes the sum of their times. The server does not wait for devices that
    would miss the deadline even alone. unlimited: every batch as soon as it arrives, as in
    formulas that add T_srv per device.
    pools: the positions of the devices in each pool, in the order in which a step takes the pools;
    None: one pool of all devices.
    """
    grid = _alone(times)
    alone = grid.finish_s()
    if server == "pooled":
        hopeful = np.isfinite(alone) & (alone <= (np.inf if deadline_s is None else deadline_s))
        grid = _pooled(times, hopeful, pools or [range(len(alone))])
    elif server == "fifo":
        grid = _fifo(times, np.isfinite(alone), grid)
    return grid.timeline(deadline_s)


def sequential(times: Durations, deadline_s: float | None = None) -> Timeline:
    """A round of devices one after another, in the order given, as in split learning.

    A device starts, with its broadcast, when the one before it has finished. A device that can
    never finish is skipped.
    """
    grid = _alone(times)
    finish = grid.finish_s()
    taken = np.where(np.isfinite(finish), finish, 0.0)
    grid.shift(np.cumsum(taken) - taken)
    return grid.timeline(deadline_s)


class Grid:
    """Starts and ends of a round's stages while they are being filled in."""

    def __init__(self, times: Durations) -> None:
        self.times = times
        steps, devices = int(times.steps.max(initial=1)), len(times.steps)
        shape = {stage: (steps if stage in STEP_STAGES else 1, devices) for stage in STAGES}
        self.start = {stage: np.full(shape[stage], np.nan) for stage in STAGES}
        self.end = {stage: np.full(shape[stage], np.nan) for stage in STAGES}

    def put(self, stage: Stage, step: int, who: Flags, start: Array, end: Array) -> None:
        """Note when a stage of a step starts and ends for the devices `who`."""
        self.start[stage][step, who] = start[who]
        self.end[stage][step, who] = end[who]

    def add(self, stage: Stage, step: int, who: Flags, start: Array, takes: Array) -> Array:
        """As `put`, from the start and the seconds that the stage takes; returns the ends."""
        end = start + takes
        self.put(stage, step, who, start, end)
        return end

    def shift(self, by: Array) -> None:
        """Move each device's stages by its own seconds."""
        for stage in STAGES:
            self.start[stage] += by
            self.end[stage] += by

    def finish_s(self) -> Array:
        """When the last stage of each device ended [M]; infinite where one never did."""
        last = np.zeros(len(self.times.steps))
        broken = np.zeros(len(last), dtype=bool)
        rows = np.arange(len(last))
        stages: tuple[Stage, ...] = ("server", "upload")
        stages += () if self.times.one_way else ("backward",)
        stages += ("server_backward",) if self.times.has_tail else ()
        for stage in stages:
            step = self.times.steps - 1 if stage in STEP_STAGES else 0 * rows
            end = self.end[stage][step, rows]
            broken |= np.isnan(end)
            last = np.fmax(last, end)
        return np.where(broken, np.inf, last)

    def timeline(self, deadline_s: float | None) -> Timeline:
        """The round, with its end and who was late."""
        finish = self.finish_s()
        limit = np.inf if deadline_s is None else deadline_s
        late = (finish > limit) | np.isinf(finish)
        end = limit if late.any() else float(finish.max(initial=0.0))
        start = np.where(late, np.nan, end)
        self.put("aggregation", 0, ~late, start, start + self.times.aggregation_s)
        return Timeline(self.start, self.end, finish, late, end + self.times.aggregation_s)


def _alone(times: Durations) -> Grid:
    """The timeline if each device had a server to itself."""
    grid = Grid(times)
    if times.has_tail:
        tail_clock.fill_alone(times, grid)
        return grid
    everyone = np.ones(len(times.steps), dtype=bool)
    ready = grid.add("broadcast", 0, everyone, np.zeros(len(everyone)), times.broadcast_s)
    if times.one_way:
        _send(times, grid, everyone, ready)
        _serve_in_order(times, grid, everyone)
        return grid
    for step in range(len(grid.end["forward"])):
        who = times.steps > step
        arrived = _forward_and_send(times, grid, step, who, ready)
        served = grid.add("server", step, who, arrived, times.server_s[step])
        ready = np.where(who, _return(times, grid, step, who, served), ready)
    grid.add("upload", 0, everyone, ready, times.upload_s)
    return grid


def _pooled(times: Durations, hopeful: Flags, pools: Sequence[Sequence[int]]) -> Grid:
    """The server computes a pool's batches of one step together, for the `hopeful` devices only."""
    grid = Grid(times)
    everyone = np.ones(len(times.steps), dtype=bool)
    masks = np.zeros((len(pools), len(everyone)), dtype=bool)
    for mask, members in zip(masks, pools, strict=True):
        mask[list(members)] = True
    masks &= hopeful
    if times.has_tail:
        tail_clock.fill_pooled(times, grid, masks, hopeful)
        return grid
    ready = grid.add("broadcast", 0, everyone, np.zeros(len(everyone)), times.broadcast_s)
    if times.one_way:
        _send(times, grid, everyone, ready)
    free = 0.0
    for step in range(len(grid.end["forward"])):
        who = times.steps > step
        if not times.one_way and step:
            who = who & hopeful
        if not times.one_way:
            _forward_and_send(times, grid, step, who, ready)
        for mask in masks:
            pool = mask & who
            if not pool.any():
                continue
            start = max(free, float(grid.end["uplink"][step, pool].max()))
            free = start + float(times.server_s[step, pool].sum())
            starts, ends = np.full(len(pool), start), np.full(len(pool), free)
            grid.put("server", step, pool, starts, ends)
            if not times.one_way:
                ready = np.where(pool, _return(times, grid, step, pool, ends), ready)
    if not times.one_way:
        grid.add("upload", 0, hopeful, ready, times.upload_s)
    return grid


def _fifo(times: Durations, reachable: Flags, alone: Grid) -> Grid:
    """The server takes batches one at a time; for devices that never wait, `alone` is right."""
    if not times.server_s.any() and not times.server_backward_s.any():
        return alone
    if times.has_tail:
        grid = Grid(times)
        tail_clock.fill_in_order(times, grid, reachable)
        return grid
    if times.one_way or len(alone.end["server"]) == 1:
        sent = ~np.isnan(alone.end["uplink"]) & reachable
        arrival = alone.end["uplink"][sent]
        takes = times.server_s[sent]
        start = _queue(arrival, takes)
        alone.start["server"][sent], alone.end["server"][sent] = start, start + takes
        if not times.one_way:
            served = np.where(reachable, alone.end["server"][0], np.inf)
            ready = _return(times, alone, 0, reachable, served)
            alone.add("upload", 0, reachable, ready, times.upload_s)
        return alone
    return _fifo_rounds(times, reachable, alone)


def _fifo_rounds(times: Durations, reachable: Flags, alone: Grid) -> Grid:
    """The queue event by event: a device's next batch comes at a time set by its last one."""
    grid = Grid(times)
    everyone = np.ones(len(reachable), dtype=bool)
    begin = grid.add("broadcast", 0, everyone, np.zeros(len(everyone)), times.broadcast_s)
    waiting = [(float(alone.end["uplink"][0, m]), 0, int(m)) for m in np.flatnonzero(reachable)]
    heapq.heapify(waiting)
    free = 0.0
    while waiting:
        arrived, step, m = heapq.heappop(waiting)
        computed = begin[m] + times.forward_s[step, m]
        served = max(free, arrived)
        free = served + times.server_s[step, m]
        received = free + times.downlink_s[step, m]
        done = received + times.backward_s[step, m]
        marks = (begin[m], computed), (computed, arrived), (served, free)
        for stage, mark in zip(_STAGES, (*marks, (free, received), (received, done)), strict=True):
            grid.start[stage][step, m], grid.end[stage][step, m] = mark
        begin[m] = done
        if step + 1 < times.steps[m]:
            sent = done + times.forward_s[step + 1, m] + times.uplink_s[step + 1, m]
            heapq.heappush(waiting, (float(sent), step + 1, m))
    grid.add("upload", 0, reachable, begin, times.upload_s)
    return grid


def _forward_and_send(times: Durations, grid: Grid, step: int, who: Flags, ready: Array) -> Array:
    computed = grid.add("forward", step, who, ready, times.forward_s[step])
    return grid.add("uplink", step, who, computed, times.uplink_s[step])


def _return(times: Durations, grid: Grid, step: int, who: Flags, served: Array) -> Array:
    received = grid.add("downlink", step, who, served, times.downlink_s[step])
    return grid.add("backward", step, who, received, times.backward_s[step])


def _send(times: Durations, grid: Grid, who: Flags, ready: Array) -> None:
    """One-way: forward passes back to back, each sent when it is done and the radio is free."""
    radio = ready
    for step in range(len(grid.end["forward"])):
        here = who & (times.steps > step)
        ready = np.where(here, grid.add("forward", step, here, ready, times.forward_s[step]), ready)
        start = np.maximum(ready, radio)
        radio = np.where(here, grid.add("uplink", step, here, start, times.uplink_s[step]), radio)
    grid.add("upload", 0, who, radio, times.upload_s)


def _serve_in_order(times: Durations, grid: Grid, who: Flags) -> None:
    """One-way: a device's batches one after another."""
    free = np.zeros(len(who))
    for step in range(len(grid.end["server"])):
        here = who & (times.steps > step)
        start = np.fmax(grid.end["uplink"][step], free)
        free = np.where(here, grid.add("server", step, here, start, times.server_s[step]), free)


def _queue(arrival: Array, takes: Array) -> Array:
    """Start of service in order of arrival, ties by position: end_i = max(end_i-1, a_i) + s_i."""
    order = np.argsort(arrival, kind="stable")
    done = np.cumsum(takes[order])
    before = done - takes[order]
    start = np.empty(len(arrival))
    # The longest any run of jobs has kept the server busy decides when this one starts.
    start[order] = before + np.maximum.accumulate(arrival[order] - before)
    return np.maximum(start, arrival)
