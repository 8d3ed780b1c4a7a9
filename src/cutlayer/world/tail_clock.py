"""The virtual clock of a round whose last blocks are on devices: a step comes to the server twice.

Activations go up and hidden states come down; the device runs its last blocks (the tail) forward
and back, sends up the gradient of those hidden states, and the server goes back through its blocks.
Where the server returns no gradient, the device's next forward pass begins once it has sent its
own. The server takes a device's batches one after another.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.world.timeline import Durations, Stage
from cutlayer.world.units import Array, Flags

if TYPE_CHECKING:
    from cutlayer.world.clock import Grid


def fill_alone(times: Durations, grid: Grid) -> None:
    """The timeline if each device had a server to itself."""
    everyone = np.ones(len(times.steps), dtype=bool)
    ready = grid.add("broadcast", 0, everyone, np.zeros(len(everyone)), times.broadcast_s)
    free = ready
    for step in range(len(grid.end["forward"])):
        who = times.steps > step
        arrived = np.fmax(_send_up(times, grid, step, who, ready), free)
        served = grid.add("server", step, who, arrived, times.server_s[step])
        sent = _run_tail(times, grid, step, who, served)
        back = grid.add("server_backward", step, who, sent, times.server_backward_s[step])
        free = np.where(who, back, free)
        ready = np.where(who, _ready(times, grid, step, who, sent, back), ready)
    grid.add("upload", 0, everyone, ready, times.upload_s)


def fill_pooled(times: Durations, grid: Grid, masks: Flags, hopeful: Flags) -> None:
    """Each of the server's two passes of a step begins when all devices of a pool have sent.

    masks: [P, M] the devices of each pool. The server waits for the `hopeful` devices only.
    """
    everyone = np.ones(len(times.steps), dtype=bool)
    ready = grid.add("broadcast", 0, everyone, np.zeros(len(everyone)), times.broadcast_s)
    free = 0.0
    for step in range(len(grid.end["forward"])):
        who = (times.steps > step) & (hopeful if step else everyone)
        arrived = _send_up(times, grid, step, who, ready)
        for mask in masks:
            pool = mask & who
            if not pool.any():
                continue
            # All exchanges of a step with one pool come before those with the next pool.
            begin, takes = max(free, float(arrived[pool].max())), times.server_s[step]
            ends = _together(grid, "server", step, pool, begin, takes)
            sent = _run_tail(times, grid, step, pool, ends)
            begin, takes = float(sent[pool].max()), times.server_backward_s[step]
            back = _together(grid, "server_backward", step, pool, begin, takes)
            free = float(back[pool][0])
            ready = np.where(pool, _ready(times, grid, step, pool, sent, back), ready)
    grid.add("upload", 0, hopeful, ready, times.upload_s)


def fill_in_order(times: Durations, grid: Grid, reachable: Flags) -> None:
    """The server takes one pass at a time, in order of arrival, ties by step and device."""
    everyone = np.ones(len(reachable), dtype=bool)
    ready = grid.add("broadcast", 0, everyone, np.zeros(len(everyone)), times.broadcast_s)
    sent = _send_up(times, grid, 0, reachable, ready)
    # (arrival, step, whether it is the way back, device)
    waiting = [(float(sent[m]), 0, False, int(m)) for m in np.flatnonzero(reachable)]
    heapq.heapify(waiting)
    free, done = 0.0, ready.copy()
    while waiting:
        arrived, step, returns, m = heapq.heappop(waiting)
        one = np.zeros(len(reachable), dtype=bool)
        one[m] = True
        start = np.full(len(reachable), max(free, arrived))
        if not returns:
            served = grid.add("server", step, one, start, times.server_s[step])
            free = float(served[m])
            sent = _run_tail(times, grid, step, one, served)
            heapq.heappush(waiting, (float(sent[m]), step, True, m))
            continue
        back = grid.add("server_backward", step, one, start, times.server_backward_s[step])
        free = float(back[m])
        sent = grid.end["tail_uplink"][step]
        done = np.where(one, _ready(times, grid, step, one, sent, back), done)
        if step + 1 < times.steps[m]:
            arrival = _send_up(times, grid, step + 1, one, done)
            heapq.heappush(waiting, (float(arrival[m]), step + 1, False, m))
    grid.add("upload", 0, reachable, done, times.upload_s)


def _send_up(times: Durations, grid: Grid, step: int, who: Flags, ready: Array) -> Array:
    computed = grid.add("forward", step, who, ready, times.forward_s[step])
    return grid.add("uplink", step, who, computed, times.uplink_s[step])


def _run_tail(times: Durations, grid: Grid, step: int, who: Flags, served: Array) -> Array:
    """Seconds at which the gradient of the hidden states has arrived at the server, by device."""
    received = grid.add("tail_downlink", step, who, served, times.tail_downlink_s[step])
    computed = grid.add("tail", step, who, received, times.tail_s[step])
    return grid.add("tail_uplink", step, who, computed, times.tail_uplink_s[step])


def _ready(times: Durations, grid: Grid, step: int, who: Flags, sent: Array, back: Array) -> Array:
    """When devices can begin the next step."""
    if times.one_way:
        return sent
    received = grid.add("downlink", step, who, back, times.downlink_s[step])
    return grid.add("backward", step, who, received, times.backward_s[step])


def _together(
    grid: Grid, stage: Stage, step: int, pool: Flags, start: float, takes: Array
) -> Array:
    """One pass of a pool, which takes the sum of its devices' times."""
    ends = np.full(len(pool), start + float(takes[pool].sum()))
    grid.put(stage, step, pool, np.full(len(pool), start), ends)
    return ends
