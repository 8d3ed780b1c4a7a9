"""A job over loopback: what the simulator runs, with the same end and the same bytes."""

import subprocess
from pathlib import Path

import pytest

from cutlayer import simulate
from cutlayer.network.transport.link_rates import LinkRates
from fleet_helpers import crowd, events, process, served, served_to_all
from helpers import equal, largest_difference, small_job


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))


def test_noisy_labels_are_those_of_the_simulator_where_the_data_are_the_jobs(
    tmp_path: Path,
) -> None:
    job = small_job(
        "generated={generator: {source: demo}, amount: 12, share_epsilon: 0.5}", method="genfl"
    )
    alone = simulate(job, out=tmp_path / "alone")
    together = served_to_all(job, tmp_path / "net", 4)
    assert equal(alone.adapter, together.adapter)
    assert [row.generated for row in alone.rows] == [row.generated for row in together.rows]


def test_allocators_go_by_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = iter([1e6, 15e6, 30e6, 90e6])

    async def measured(connection: object) -> LinkRates:
        return LinkRates(0.01, sent_bps=50e6, received_bps=next(rates))

    monkeypatch.setattr("cutlayer.network.server.reception.measure_link", measured)
    cuts = "method.allocation={cuts: [4, 3, 2, 1], rates_bps: [0, 10e6, 20e6, 40e6]}"
    job = small_job(cuts, "training.rounds=1", method="asfl", world={})
    found = served_to_all(job, tmp_path / "net", 4)
    (row,) = found.rows
    wanted = {1e6: 4, 15e6: 3, 30e6: 2, 90e6: 1}
    for event in events(tmp_path / "net.log", "ready"):
        decision = row.decisions[event["number"]]
        assert decision.cut == wanted[event["uplink_bps"]]
        assert event["flops_per_s"] > 1e6
    assert row.planned_s is not None
    assert row.virtual_s is None  # the time is real


@pytest.mark.parametrize(
    "method", ["split-lora", "local-lora", "st-sflora", "sflam", "asfv", "auto", "genfl", "genfv"]
)
def test_every_method_that_the_simulator_runs_runs_over_a_network(
    tmp_path: Path, method: str
) -> None:
    generated = "generated={generator: {source: demo}, amount: 8}"
    settings = [generated] if method.startswith("gen") else []
    job = small_job(*settings, "training.rounds=1", method=method, world={})
    found = served_to_all(job, tmp_path / "net", 4)
    assert found.rows[0].loss > 0
    assert not found.rows[0].lost


@pytest.mark.parametrize("method", ["sflora", "fedlora", "tsflora", "st-sflora"])
def test_a_network_ends_where_the_simulator_does(tmp_path: Path, method: str) -> None:
    job = small_job("method.allocation.solver=equal", method=method)
    alone = simulate(job, out=tmp_path / "alone")
    together = served_to_all(job, tmp_path / "net", 4)
    assert equal(alone.adapter, together.adapter)
    for one, other in zip(alone.rows, together.rows, strict=True):
        assert one.traffic == other.traffic
        assert one.accuracy == other.accuracy


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sflora", "fedlora", "tsflora", "st-sflora"])
def test_devices_that_are_processes_end_where_the_simulator_does(
    tmp_path: Path, method: str
) -> None:
    job = small_job("method.allocation.solver=equal", method=method)
    alone = simulate(job, out=tmp_path / "alone")
    devices: list[subprocess.Popen[bytes]] = []
    together = served(
        job, tmp_path / "net", lambda port: devices.extend(process(port, n) for n in range(4))
    )
    assert [device.wait(60) for device in devices] == [0] * 4
    assert largest_difference(alone.adapter, together.adapter) <= 1e-6
    for one, other in zip(alone.rows, together.rows, strict=True):
        assert one.traffic == other.traffic  # frames, to the byte
        assert other.overhead_bytes is not None  # what carrying them took, apart


@pytest.mark.parametrize(
    ("method", "deadline_s"),
    [("st-sflora", None), ("asfv", None), ("auto", None), ("sflora", 0.5), ("fedlora", 0.5)],
)
def test_by_the_world_of_the_job_even_its_decisions_and_seconds_are_the_simulators(
    tmp_path: Path, method: str, deadline_s: float | None
) -> None:
    world = {"mobility": {"kind": "redraw"}, "deadline_s": deadline_s}
    job = small_job(method=method, world=world)
    alone = simulate(job, out=tmp_path / "alone")
    assert any(row.late for row in alone.rows) == bool(deadline_s)
    with crowd() as devices:
        together = served(
            job,
            tmp_path / "net",
            lambda port: [devices.join(port, n) for n in range(4)],
            virtual=True,
        )
    assert devices.errors == {}
    assert equal(alone.adapter, together.adapter)
    for one, other in zip(alone.rows, together.rows, strict=True):
        assert one.decisions == other.decisions
        assert one.traffic == other.traffic
        assert one.late == other.late
        assert one.virtual_s == other.virtual_s
        assert one.joules == other.joules


@pytest.mark.parametrize("fit", ["spatial", "weighting"])
def test_bases_over_a_network_are_those_of_the_simulator(tmp_path: Path, fit: str) -> None:
    more = ("data.train_samples=120", "training.local_epochs=2")  # a basis takes 64 of them
    uplink = f"method.uplink={{codec: klt, {fit}: true}}"
    job = small_job(uplink, "method.downlink.codec=klt", *more)
    alone = simulate(job, out=tmp_path / "alone")
    together = served_to_all(job, tmp_path / "net", 4)
    assert equal(alone.adapter, together.adapter)
    assert [row.traffic for row in alone.rows] == [row.traffic for row in together.rows]
    assert alone.rows[0].traffic[0][4] > 0
    assert alone.rows[1].traffic[0][4] > 0  # that of gradients, fitted at the first round's end
