"""A job over loopback: what the simulator runs, with the same end and the same bytes."""

from pathlib import Path

import pytest

from cutlayer import simulate
from fleet_helpers import crowd, served
from helpers import equal, largest_difference, small_job


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))


def test_noisy_labels_are_those_of_the_simulator_where_the_data_are_the_jobs(
    tmp_path: Path,
) -> None:
    job = small_job(
        "augment={generator: {source: demo}, amount: 12, share_epsilon: 0.5}", method="genfl"
    )
    alone = simulate(job, tmp_path / "alone")
    with crowd() as devices:
        together = served(
            job, tmp_path / "net", lambda port: [devices.join(port, n) for n in range(4)]
        )
    assert devices.errors == {}
    assert equal(alone.adapter, together.adapter)
    assert [row.generated for row in alone.rows] == [row.generated for row in together.rows]


@pytest.mark.parametrize("method", ["sflora", "fedlora", "tsflora", "st-sflora"])
def test_a_network_ends_where_the_simulator_does(tmp_path: Path, method: str) -> None:
    job = small_job("method.allocation.solver=equal", method=method)
    alone = simulate(job, tmp_path / "alone")
    with crowd() as devices:
        together = served(
            job, tmp_path / "net", lambda port: [devices.join(port, n) for n in range(4)]
        )
    assert devices.errors == {}
    print(largest_difference(alone.adapter, together.adapter))
    assert equal(alone.adapter, together.adapter)
    for one, other in zip(alone.rows, together.rows, strict=True):
        assert one.traffic == other.traffic
        assert one.accuracy == other.accuracy
