"""Over a network too: from an adapter, and with more rounds."""

from pathlib import Path

import pytest

pytest.importorskip("grpc")

import cutlayer
from cutlayer.errors import JobError
from cutlayer.job import change_job
from cutlayer.network.server.serve import ServeOptions, resume_serving, serve
from fleet_helpers import crowd, served
from helpers import equal, small_job

FEW = ("data.train_samples=60", "data.test_samples=20", "devices.count=2", "training.rounds=1")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))


def test_devices_go_on_from_an_adapter_and_with_more_rounds_as_in_a_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cutlayer.simulate(small_job(*FEW), out=tmp_path / "first")
    job = change_job(first.job, [f"model.adapter={first.adapter_folder}", "training.lr=2e-3"])
    longer = change_job(job, ["training.rounds=2"])
    alone = cutlayer.simulate(longer, out=tmp_path / "alone")
    for again in (False, True):
        with crowd() as devices:

            def bring(port: int) -> None:
                for number in range(2):
                    devices.join(port, number)

            if not again:
                served(job, tmp_path / "net", bring)
            else:
                options = ServeOptions("127.0.0.1:0", log=tmp_path / "again.log")
                found = resume_serving(tmp_path / "net", rounds=2, options=options, on_port=bring)
        assert devices.errors == {}
    assert equal(found.adapter, alone.adapter)


def test_samples_cannot_be_held_out_over_a_network(tmp_path: Path) -> None:
    job = small_job(*FEW, "data.partition.held_out=0.2")
    with pytest.raises(JobError, match=r"data\.partition\.held_out: 0\.2 but devices over a"):
        serve(job, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
