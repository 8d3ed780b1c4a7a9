"""A round has one shape: the planner's, the clock's, the record's and the replay's are the same."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.allocate.decision import Decision, tokens_of
from cutlayer.allocate.radio_math import rate
from cutlayer.allocate.round_shape import RoundShape, Traffic, batch_counts, batch_sizes
from cutlayer.job import load_job, make_job
from cutlayer.methods import find_method
from cutlayer.planning.plan import plan
from cutlayer.record.row_lines import line_of, row_of
from cutlayer.record.rows import Row
from cutlayer.settings.training import Training
from cutlayer.train.result import RoundResult

TRAINING = Training(batch_size=4, local_epochs=2)


@pytest.mark.parametrize("change", [False, True])
@pytest.mark.parametrize("codec", ["quantize", "klt"])
@pytest.mark.parametrize("rate_bits", [None, 0.3])
def test_bits_of_a_value_are_those_of_the_quantiser_decided(codec, change, rate_bits):
    method = find_method("sflora")
    uplink = method.uplink.model_copy(update={"codec": codec, "change": change, "bits": 8})
    method = method.model_copy(update={"uplink": uplink})
    decided = Decision(2, None, 4, 8, rate_bits=rate_bits)
    assert decided.value_bits(method) == decided.uplink(method).value_bits


@settings(max_examples=100, deadline=None)
@given(
    held=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    batch=st.integers(1, 40),
    epochs=st.integers(1, 3),
)
def test_batches_of_many_devices_are_counted_as_those_of_one(held, batch, epochs):
    training = Training(batch_size=batch, local_epochs=epochs)
    sizes = [batch_sizes(samples, training) for samples in held]
    assert [sum(one) for one in sizes] == [epochs * samples for samples in held]
    counts = batch_counts(np.array(held, dtype=float), training)
    for size, count in counts.items():
        assert count.tolist() == [one.count(size) for one in sizes]
    assert sum(counts.values()).tolist() == [len(one) for one in sizes]


def test_the_last_batch_of_every_epoch_holds_what_is_left():
    assert batch_sizes(10, TRAINING) == (4, 4, 2, 4, 4, 2)
    assert batch_sizes(8, TRAINING) == (4, 4, 4, 4)


def test_a_shape_is_of_the_devices_that_make_a_step():
    decisions = {3: Decision(1), 1: Decision(1), 2: Decision(1)}
    shape = RoundShape(0, decisions, {2: (4, 1), 1: (), 3: (4, 4, 2)})
    assert shape.cohort == [3, 1, 2]
    assert shape.trained == [3, 2]
    assert shape.samples_trained == {2: 5, 1: 0, 3: 10}
    assert shape.batch_table().tolist() == [[4, 4], [4, 1], [2, 0]]


def result_with_a_lost_device() -> RoundResult:
    """Device 1 trains on 10 samples an epoch; device 0 is lost in its fourth step."""
    result = RoundResult(5, {1: Decision(2), 0: Decision(2)}, lost=[0])
    result.batches |= {1: batch_sizes(10, TRAINING), 0: batch_sizes(6, TRAINING)}
    result.losses[1], result.losses[0] = [1.0] * 6, [1.0] * 3
    result.traffic[1] = Traffic(600, 600, 10, 10)
    result.traffic[0] = Traffic(300, 300, 10, 0)
    return result


def test_a_line_of_the_record_gives_back_the_shape_of_its_round():
    result = result_with_a_lost_device()
    shape = result.shape
    assert shape.batches == {1: (4, 4, 2, 4, 4, 2), 0: (4, 2, 4)}
    row = Row(
        round=5,
        decisions=result.decisions,
        samples_trained={d: sum(sizes) for d, sizes in result.batches.items()},
        steps={d: len(sizes) for d, sizes in shape.batches.items()},
        loss=1.0,
        traffic={d: [t.activations, t.gradients, t.adapter_down, t.adapter_up]
                 for d, t in result.traffic.items()},
        seconds={},
        cpu_seconds=0.0,
        device_loss={},
        lost=[0],
    )  # fmt: skip
    line = line_of(row)
    assert json.loads(line)["samples"] == {"1": 20, "0": 12}
    assert row_of(line) == row
    assert row_of(line).shape(TRAINING) == shape
    before = {key: value for key, value in json.loads(line).items() if key != "steps"}
    whole = row_of(json.dumps(before)).shape(TRAINING)
    assert whole.batches == {1: (4, 4, 2, 4, 4, 2), 0: (4, 2, 4, 2)}


def test_a_decision_says_how_its_method_sends():
    method = find_method("tsflora")
    one = Decision(2, tokens=7, bits_up=3, bits_down=5)
    assert one.uplink(method) == method.uplink.model_copy(update={"bits": 3})
    assert one.downlink(method) == method.downlink.model_copy(update={"bits": 5})
    assert one.selection(method) == method.tokens.model_copy(update={"keep": 7})
    assert (one.keep(49), Decision(2).keep(49)) == (7, 49)
    assert (tokens_of(7, 49), tokens_of(49, 49)) == (7, None)


def test_solvers_and_clock_reckon_with_one_rate():
    found = plan(load_job(None, ["method=sflora", "world.snr_gap_db=3", "devices.count=4"]))
    known, power = found.known, found.known.fleet.power_max_w
    own = rate(5e6, power, known.gain / known.noise_w_per_hz)
    assert known.uplink_bps(5e6, power) == pytest.approx(own, rel=1e-12)


def test_devices_that_run_the_whole_model_wait_for_no_server():
    world = {"server_flops": 1e9, "reference_loss_db": 70.0}
    took = [
        plan(make_job({"method": "fedlora", "world": {**world, "serving": serving}})).round_s
        for serving in ("fifo", "pooled")
    ]
    assert took[0] == took[1]
