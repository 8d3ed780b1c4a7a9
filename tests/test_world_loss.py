"""Packets that are lost come a round trip later."""

from pathlib import Path

import numpy as np
import pytest

from cutlayer.errors import JobError
from cutlayer.job import make_job
from cutlayer.planning.plan import plan
from cutlayer.seeds import numpy_rng
from cutlayer.world.packet_loss import PACKET_BYTES, lateness_s


def lateness(size, rate, loss, frames=20_000, round_trip_s=0.1):
    return lateness_s(numpy_rng(0, "loss"), size, rate, frames, loss, round_trip_s)


def test_without_loss_nothing_is_late():
    assert not lateness(1e6, 1e6, 0.0, frames=3).any()


def test_a_single_packet_waits_for_a_probe_and_then_for_each_further_loss():
    late = lateness(PACKET_BYTES, 1e6, 0.3)
    # A probe after two round trips; then a round trip and 0.2 s for each further loss.
    for wait_s, share in ((0, 0.7), (0.2, 0.3 * 0.7), (0.5, 0.3**2 * 0.7), (0.8, 0.3**3 * 0.7)):
        assert np.isclose(late, wait_s).mean() == pytest.approx(share, rel=0.1)


def test_a_loss_far_from_the_end_of_a_long_frame_costs_nothing():
    # Packets leave every 11.6 ms: what is sent again after 100 ms is late for the last 9 only.
    late = lateness(1000 * PACKET_BYTES, 1e6, 0.01, frames=4000)
    assert (late > 0).mean() == pytest.approx(1 - 0.99**9, rel=0.15)
    assert late.max() < 0.5


def test_a_frame_is_as_late_as_its_latest_packet():
    few, many = lateness(2 * PACKET_BYTES, 1e9, 0.05), lateness(50 * PACKET_BYTES, 1e6, 0.05)
    assert (few > 0).mean() == pytest.approx(1 - 0.95**2, rel=0.05)
    # Packets leave every 11.6 ms, and what is sent again is there 100 ms later.
    assert (many > 0).mean() == pytest.approx(1 - 0.95**9, rel=0.05)


def test_short_frames_take_a_round_trip_to_send_where_packets_are_lost():
    least = lateness(37 * PACKET_BYTES, 20e6, 0.01).min()
    assert least + 37 * PACKET_BYTES * 8 / 20e6 == pytest.approx(0.1)
    assert lateness(4 * PACKET_BYTES, 20e6, 0.01).min() == 0
    assert lateness(1000 * PACKET_BYTES, 20e6, 0.01).min() == 0


def test_nothing_to_send_and_a_dead_link_are_not_late():
    for size, rate in ((0.0, 1e6), (1e6, 0.0)):
        assert lateness(size, rate, 0.5, frames=2).tolist() == [0, 0]


def test_loss_without_latency_is_refused():
    with pytest.raises(JobError, match=r"packet_loss is 0.01 but latency_s is 0"):
        make_job({"world": {"packet_loss": 0.01}})


def test_what_a_device_loses_depends_on_no_other(tmp_path: Path) -> None:
    def sending_s(devices: int) -> list[float]:
        rates = tmp_path / f"{devices}.csv"
        lines = [f"{time_s},{m},1e7,1e7" for time_s in (0, 10**5) for m in range(devices)]
        rates.write_text("\n".join(["time_s,device,uplink_bps,downlink_bps", *lines]))
        link = {"rates_path": str(rates), "latency_s": 0.05, "packet_loss": 0.3}
        found = plan(make_job({"devices": {"count": devices}, "method": "sflora", "world": link}))
        place = list(found.decided.decisions).index(0)
        sent = found.timeline.end_s["uplink"] - found.timeline.start_s["uplink"]
        return sent[:, place].tolist()

    few, many = sending_s(2), sending_s(5)
    assert few == pytest.approx(many)
    assert max(few) - min(few) > 0.09  # a round trip more or less
