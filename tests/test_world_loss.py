"""Packets that are lost come a round trip later."""

import numpy as np
import pytest

from cutlayer.errors import JobError
from cutlayer.job import make_job
from cutlayer.seeds import numpy_rng
from cutlayer.world.loss import PACKET_BYTES, lateness_s


def lateness(size, rate, loss, steps=20_000, round_trip_s=0.1):
    rng = numpy_rng(0, "loss")
    return lateness_s(rng, np.array([size]), np.array([rate]), steps, loss, round_trip_s)[:, 0]


def test_without_loss_nothing_is_late():
    assert not lateness(1e6, 1e6, 0.0, steps=3).any()


def test_a_single_packet_waits_for_a_probe_and_then_for_each_further_loss():
    late = lateness(PACKET_BYTES, 1e6, 0.3)
    for tries, share in ((0, 0.7), (2, 0.3 * 0.7), (3, 0.3**2 * 0.7)):
        assert np.isclose(late, 0.1 * tries).mean() == pytest.approx(share, rel=0.05)


def test_a_loss_far_from_the_end_of_a_long_frame_costs_nothing():
    # Packets leave every 11.6 ms: what is sent again after 100 ms is late for the last 9 only.
    late = lateness(1000 * PACKET_BYTES, 1e6, 0.01, steps=4000)
    assert (late > 0).mean() == pytest.approx(1 - 0.99**9, rel=0.15)
    assert late.max() < 0.5


def test_a_frame_is_as_late_as_its_latest_packet():
    few, many = lateness(2 * PACKET_BYTES, 1e9, 0.05), lateness(50 * PACKET_BYTES, 1e9, 0.05)
    assert (few > 0).mean() == pytest.approx(1 - 0.95**2, rel=0.05)
    assert (many > 0).mean() == pytest.approx(1 - 0.95**50, rel=0.05)


def test_nothing_to_send_and_a_dead_link_are_not_late():
    rng = numpy_rng(0)
    late = lateness_s(rng, np.array([0.0, 1e6]), np.array([1e6, 0.0]), 2, 0.5, 0.1)
    assert late.tolist() == [[0, 0], [0, 0]]


def test_loss_without_latency_is_refused():
    with pytest.raises(JobError, match=r"packet_loss is 0.01 but latency_s is 0"):
        make_job({"world": {"packet_loss": 0.01}})
