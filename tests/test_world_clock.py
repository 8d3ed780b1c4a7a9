"""Stages of a round start and end when they would on real devices."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.errors import WorldError
from cutlayer.world.clock import parallel, sequential
from cutlayer.world.timeline import STAGES, STEP_STAGES, TAIL_STAGES, durations


def test_one_step_of_one_device_is_the_sum_of_its_stages():
    times = durations(
        1, broadcast_s=1, forward_s=2, uplink_s=3, server_s=4, downlink_s=5, backward_s=6,
        upload_s=7, aggregation_s=8,
    )  # fmt: skip
    for line in (parallel(times), sequential(times), parallel(times, "pooled")):
        spans = line.spans(0)
        assert [span.stage for span in spans] == [one for one in STAGES if one not in TAIL_STAGES]
        assert [span.start_s for span in spans] == [0, 1, 3, 6, 10, 15, 21, 28]
        assert line.duration_s == 36
        assert line.finish_s.tolist() == [28]


def test_side_by_side_a_round_lasts_as_long_as_its_slowest_device():
    times = durations(3, forward_s=[1, 5, 2], uplink_s=1, downlink_s=1, backward_s=[2, 1, 1])
    line = parallel(times)
    assert line.finish_s.tolist() == [5, 8, 5]
    assert line.duration_s == 8


def test_one_after_another_a_round_lasts_as_long_as_all_together():
    times = durations(
        2, broadcast_s=1, forward_s=[1, 5], uplink_s=1, server_s=2, upload_s=3, steps=[2, 1]
    )
    line = sequential(times)
    assert line.finish_s.tolist() == [1 + 2 * 4 + 3, 12 + 1 + 8 + 3]
    assert line.start_s["broadcast"][0].tolist() == [0, 12]
    assert line.duration_s == 24


def test_a_queue_serves_in_order_of_arrival():
    times = durations(3, uplink_s=[3, 1, 2], server_s=[10, 5, 1], downlink_s=1)
    line = parallel(times, "fifo")
    assert line.start_s["server"][0].tolist() == [7, 1, 6]
    assert line.finish_s.tolist() == [18, 7, 8]


def test_a_pool_waits_for_the_last_and_works_for_all_at_once():
    times = durations(2, uplink_s=[1, 4], server_s=[2, 3], steps=[2, 1])
    line = parallel(times, "pooled")
    assert line.start_s["server"][:, 0].tolist() == [4, 10]  # second step: device 0 alone
    assert line.end_s["server"][:, 0].tolist() == [9, 12]
    assert math.isnan(line.start_s["server"][1, 1])


def test_pools_are_served_in_turn_and_their_devices_go_on_meanwhile():
    times = durations(3, uplink_s=[1, 2, 9], server_s=1, backward_s=3, steps=2)
    line = parallel(times, "pooled", pools=[[0, 1], [2]])
    # The first pool's second step is there after 8 seconds, but the second pool's first is not.
    assert line.start_s["server"].tolist() == [[2, 2, 9], [10, 10, 22]]
    assert line.finish_s.tolist() == [15, 15, 26]


def test_a_step_takes_as_long_as_its_own_frames():
    times = durations(2, uplink_s=[[1, 2], [5, 1]], downlink_s=[[1, 1], [0, 4]], steps=[2, 1])
    assert parallel(times).finish_s.tolist() == [7, 3]
    assert parallel(times).busy_s("uplink").tolist() == [6, 2]


def test_the_last_batch_of_an_epoch_takes_less_everywhere():
    takes = {"forward_s": [[2], [1]], "server_s": [[4], [2]], "backward_s": [[6], [3]]}
    for line in (
        parallel(durations(1, **takes, steps=2)),
        parallel(durations(1, **takes, steps=2), "pooled"),
        sequential(durations(1, **takes, steps=2)),
    ):
        assert line.start_s["server"][:, 0].tolist() == [2, 13]
        assert line.finish_s.tolist() == [12 + 6]
    one_way = durations(1, forward_s=[[2], [1]], server_s=[[4], [2]], steps=2, one_way=True)
    assert parallel(one_way).finish_s.tolist() == [2 + 4 + 2]


def test_an_unlimited_server_makes_nobody_wait():
    times = durations(2, uplink_s=[1, 1], server_s=[2, 3])
    assert parallel(times, "unlimited").finish_s.tolist() == [3, 4]


def test_one_way_devices_compute_while_they_send():
    times = durations(1, forward_s=2, uplink_s=3, steps=3, one_way=True)
    line = parallel(times)
    assert line.start_s["forward"][:, 0].tolist() == [0, 2, 4]
    assert line.start_s["uplink"][:, 0].tolist() == [2, 5, 8]
    assert line.finish_s.tolist() == [11]
    assert np.isnan(line.start_s["backward"]).all()
    assert line.busy_s("uplink").tolist() == [9]


def test_one_way_with_one_step_is_st_sfloras_delay():
    broadcast, forward, uplink = 0.5, np.array([1.0, 2.0]), np.array([4.0, 1.0])
    times = durations(2, broadcast_s=broadcast, forward_s=forward, uplink_s=uplink, one_way=True)
    assert parallel(times).duration_s == (broadcast + forward + uplink).max()


def test_a_deadline_marks_the_late_and_ends_the_round():
    times = durations(3, forward_s=[1, 5, 9], aggregation_s=1)
    line = parallel(times, deadline_s=6)
    assert line.late.tolist() == [False, False, True]
    assert line.duration_s == 7
    assert math.isnan(line.start_s["aggregation"][0, 2])
    assert parallel(times, deadline_s=9).late.any() == False  # noqa: E712
    assert parallel(times, deadline_s=30).duration_s == 10


def test_a_pool_does_not_wait_for_those_who_cannot_make_the_deadline():
    times = durations(2, uplink_s=[1, 50], server_s=1, steps=2)
    line = parallel(times, "pooled", deadline_s=10)
    assert line.late.tolist() == [False, True]
    assert line.finish_s[0] == 4
    # The one left out sends its first batch and gets no answer to go on with.
    assert [span.stage for span in line.spans(1)] == ["uplink"]
    assert np.isnan(line.start_s["forward"][1, 1])


@pytest.mark.parametrize("server", ["fifo", "pooled", "unlimited"])
@pytest.mark.parametrize("one_way", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_device_without_a_link_is_late_and_holds_nobody_up(server, one_way, steps):
    times = durations(2, uplink_s=[math.inf, 1], server_s=1, steps=steps, one_way=one_way)
    line = parallel(times, server, deadline_s=20)
    assert line.late.tolist() == [True, False]
    assert line.finish_s[1] < 10
    assert line.duration_s == 20
    assert math.isinf(parallel(times, server).duration_s)
    assert sequential(times, deadline_s=20).late.tolist() == [True, False]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"uplink_s": [1, -1]}, "uplink_s of device 1 is -1"),
        ({"server_s": math.nan}, "server_s of device 0 is nan"),
        ({"aggregation_s": -2}, "aggregation_s of device 0 is -2"),
        ({"steps": [1, 0]}, "device 1 has 0 steps"),
        ({"backward_s": 1, "one_way": True}, "one-way round"),
    ],
)
def test_impossible_durations_are_refused(values, message):
    with pytest.raises(WorldError, match=message):
        durations(2, **values)


def simulate(times, server):
    """Finish times by an event loop with no cleverness: always the earliest possible start."""
    count = len(times.steps)
    device = times.broadcast_s.astype(float).tolist()  # the device's processor is free
    radio = list(device)
    chain = [0.0] * count  # the last batch of this device was served
    jobs = []
    for m in range(count):
        for step in range(times.steps[m] if times.one_way else 1):
            device[m] += times.forward_s[step, m]
            radio[m] = max(device[m], radio[m]) + times.uplink_s[step, m]
            jobs.append((radio[m], step, m))
    free, finish = 0.0, [0.0] * count
    while jobs:
        jobs.sort()
        arrived, step, m = jobs.pop(0)
        start = max(arrived, free) if server == "fifo" else max(arrived, chain[m])
        end = start + times.server_s[step, m]
        free = chain[m] = end
        if times.one_way:
            finish[m] = end
            continue
        ready = end + times.downlink_s[step, m] + times.backward_s[step, m]
        if step + 1 < times.steps[m]:
            sent = ready + times.forward_s[step + 1, m] + times.uplink_s[step + 1, m]
            jobs.append((sent, step + 1, m))
        finish[m] = ready
    sent = radio if times.one_way else finish
    return np.maximum(finish, np.array(sent) + times.upload_s)


tenths = st.integers(0, 40).map(lambda n: n / 8)  # exact in binary: no rounding to forgive


@settings(max_examples=200, deadline=None)
@given(
    data=st.data(),
    count=st.integers(1, 6),
    one_way=st.booleans(),
    most=st.integers(1, 4),
    server=st.sampled_from(["fifo", "unlimited"]),
)
def test_a_timeline_is_that_of_an_event_by_event_simulation(data, count, one_way, most, server):
    def draw():
        return data.draw(st.lists(tenths, min_size=count, max_size=count))

    steps = data.draw(st.lists(st.integers(1, most), min_size=count, max_size=count))

    def draw_steps():
        return [draw() for _ in range(max(steps))]

    back = [0.0] * count if one_way else None
    times = durations(
        count, broadcast_s=draw(), forward_s=draw_steps(), uplink_s=draw_steps(),
        server_s=draw_steps(), downlink_s=back or draw_steps(), backward_s=back or draw_steps(),
        upload_s=draw(), steps=steps, one_way=one_way,
    )  # fmt: skip
    line = parallel(times, server)
    assert line.finish_s.tolist() == simulate(times, server).tolist()
    check_order(times, line)
    check_order(times, parallel(times, "pooled"))
    check_order(times, sequential(times))


def check_order(times, line):
    """Stages last as long as they should, none starts before what it needs has ended."""
    stages = [stage for stage in STEP_STAGES if stage not in TAIL_STAGES]
    stages = stages[:3] if times.one_way else stages
    for m, steps in enumerate(times.steps):
        begun = line.end_s["broadcast"][0, m]
        free = dict.fromkeys(stages, begun)  # a device's every part does one thing at a time
        for step in range(steps):
            ready = begun if times.one_way else max(free.values())
            for stage in stages:
                assert line.start_s[stage][step, m] >= max(ready, free[stage])
                ready = free[stage] = line.end_s[stage][step, m]
        last = free["uplink"] if times.one_way else ready
        assert line.start_s["upload"][0, m] >= last
        for stage in stages:
            assert np.isnan(line.start_s[stage][steps:, m]).all()
            if stage != "server":
                takes = getattr(times, f"{stage}_s")[:steps, m].sum()
                assert line.busy_s(stage)[m] == pytest.approx(takes)
    assert line.duration_s == line.finish_s.max()
    assert not line.late.any()


def test_a_queue_of_a_hundred_thousand_is_served_one_by_one():
    rng = np.random.default_rng(0)
    times = durations(100_000, uplink_s=rng.random(100_000), server_s=rng.random(100_000) / 1e5)
    line = parallel(times)
    order = np.argsort(line.start_s["server"][0])
    starts, ends = line.start_s["server"][0][order], line.end_s["server"][0][order]
    assert (starts[1:] >= ends[:-1] - 1e-9).all()
    assert (starts >= line.end_s["uplink"][0][order]).all()


# ---- last blocks on devices ----


def simulate_tail(times, server):
    """As `simulate`, of steps that come to the server twice."""
    count = len(times.steps)
    ready = times.broadcast_s.astype(float).tolist()
    chain, finish, free = [0.0] * count, [0.0] * count, 0.0
    jobs = [
        (ready[m] + times.forward_s[0, m] + times.uplink_s[0, m], 0, 0, m) for m in range(count)
    ]
    while jobs:
        jobs.sort()
        arrived, step, back, m = jobs.pop(0)
        takes = (times.server_backward_s if back else times.server_s)[step, m]
        end = max(arrived, free if server == "fifo" else chain[m]) + takes
        free = chain[m] = end
        if not back:
            sent = end + times.tail_downlink_s[step, m] + times.tail_s[step, m]
            sent += times.tail_uplink_s[step, m]
            ready[m] = sent
            jobs.append((sent, step, 1, m))
            continue
        if not times.one_way:
            ready[m] = end + times.downlink_s[step, m] + times.backward_s[step, m]
        if step + 1 < times.steps[m]:
            sent = ready[m] + times.forward_s[step + 1, m] + times.uplink_s[step + 1, m]
            jobs.append((sent, step + 1, 0, m))
        finish[m] = max(end, ready[m] + times.upload_s[m])
    return finish


@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    count=st.integers(1, 5),
    one_way=st.booleans(),
    most=st.integers(1, 3),
    server=st.sampled_from(["fifo", "unlimited"]),
)
def test_with_a_tail_a_step_comes_to_the_server_twice(data, count, one_way, most, server):
    def draw():
        return data.draw(st.lists(tenths, min_size=count, max_size=count))

    steps = data.draw(st.lists(st.integers(1, most), min_size=count, max_size=count))
    idle = ("downlink", "backward") if one_way else ()
    takes = {f"{stage}_s": [draw() for _ in range(max(steps))]
             for stage in STEP_STAGES if stage not in idle}  # fmt: skip
    times = durations(
        count, broadcast_s=draw(), upload_s=draw(), steps=steps, one_way=one_way, has_tail=True,
        **takes,
    )  # fmt: skip
    line = parallel(times, server)
    assert line.finish_s.tolist() == simulate_tail(times, server)
    stages = [stage for stage in STEP_STAGES if stage not in idle]
    for found in (line, parallel(times, "pooled"), sequential(times)):
        assert found.duration_s == found.finish_s.max()
        for m, made in enumerate(steps):
            for step in range(made):
                for one, other in pairwise(stages):
                    assert found.start_s[other][step, m] >= found.end_s[one][step, m]


def test_one_step_with_a_tail_is_the_sum_of_its_stages():
    takes = {f"{stage}_s": number for number, stage in enumerate(STEP_STAGES, 1)}
    times = durations(1, has_tail=True, **takes)
    for line in (parallel(times), sequential(times), parallel(times, "pooled")):
        assert [span.stage for span in line.spans(0)] == list(STEP_STAGES)
        assert line.duration_s == sum(range(1, 10))


def test_a_pool_with_a_tail_waits_for_the_last_twice():
    times = durations(2, has_tail=True, forward_s=[1, 3], server_s=1, tail_s=[5, 1],
                      server_backward_s=[2, 2], backward_s=1)  # fmt: skip
    line = parallel(times, "pooled")
    assert line.start_s["server"][0].tolist() == [3, 3]
    assert line.start_s["server_backward"][0].tolist() == [10, 10]
    assert line.finish_s.tolist() == [15, 15]


@pytest.mark.parametrize("server", ["fifo", "pooled", "unlimited"])
def test_a_device_that_never_gets_its_features_is_late(server):
    times = durations(2, has_tail=True, forward_s=1, tail_downlink_s=[math.inf, 1], server_s=1,
                      steps=[2, 2])  # fmt: skip
    line = parallel(times, server, deadline_s=50)
    assert line.late.tolist() == [True, False]
    assert math.isfinite(line.finish_s[1])
