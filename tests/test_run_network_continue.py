"""Over a network too: from an adapter, and with more rounds."""

from pathlib import Path

import pytest
import yaml

pytest.importorskip("grpc")

import cutlayer
from cutlayer.errors import JobError
from cutlayer.job import change_job, load_job, parse_job
from cutlayer.network.server.serve import ServeOptions, resume_serving, serve
from cutlayer.network.transport.client import connect
from cutlayer.network.transport.messages import Hello, Message, Task
from cutlayer.record.rows import Row
from cutlayer.rounds.progress import Silent
from fleet_helpers import crowd, events, served, until
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


def test_a_fleet_grows_between_a_run_and_its_resumption(tmp_path: Path) -> None:
    job = small_job(*FEW)
    with crowd() as devices:
        served(job, tmp_path / "net", lambda port: [devices.join(port, n) for n in range(2)])
    with crowd() as devices:

        def bring(port: int) -> None:
            for number in range(3):
                devices.join(port, number)

        options = ServeOptions("127.0.0.1:0", log=tmp_path / "again.log")
        found = resume_serving(
            tmp_path / "net", rounds=2, devices=3, options=options, on_port=bring
        )
    assert devices.errors == {}
    assert [sorted(row.traffic) for row in found.rows] == [[0, 1], [0, 1, 2]]
    assert load_job(tmp_path / "net" / "job.yaml").devices.count == 3
    with pytest.raises(JobError, match=r"devices\.count: 2 but the run began with 3"):
        resume_serving(tmp_path / "net", devices=2)
    with pytest.raises(JobError, match=r"devices\.count: 4 with --virtual"):
        resume_serving(tmp_path / "net", devices=4, options=ServeOptions(virtual=True))


def test_a_device_of_another_version_goes_on_in_a_run_that_has_grown(tmp_path: Path) -> None:
    """It comes ready for the job as it was, is told the job as it is, and trains."""
    told: list[Message] = []
    job = small_job(*FEW)

    async def come(port: int) -> None:
        said = Hello(version="0.0.1", job="ab", device="cam-0001", samples=9)
        connection = await connect(f"127.0.0.1:{port}", said)
        told.append(await connection.hear())
        await connection.close("it is looked at")

    with crowd() as devices:

        def bring(port: int) -> None:
            devices.do(come(port))
            devices.join(port, 0)
            devices.join(port, 1)

        served(job, tmp_path / "net", bring)
    assert devices.errors == {}
    (task,) = told
    assert isinstance(task, Task)
    assert parse_job(yaml.safe_load(task.job)) == job


def test_devices_join_later_than_the_run_begins(tmp_path: Path) -> None:
    """A job of three, begun with two: the third takes part from the round after it is ready."""
    job = small_job(*FEW[:2], "devices.count=3", "training.rounds=2")
    with crowd() as devices:

        class Later(Silent):
            """Brings the third device when the first round is over."""

            def round_done(self, row: Row) -> None:
                if row.round == 0:
                    devices.join(port[0], 2)
                    until(lambda: len(events(tmp_path / "net.log", "ready")) == 3)

        port: list[int] = []

        def bring(number: int) -> None:
            port.append(number)
            devices.join(number, 0)
            devices.join(number, 1)

        found = served(job, tmp_path / "net", bring, progress=Later(), devices=2)
    assert devices.errors == {}
    assert sorted(found.rows[0].traffic) == [0, 1]
    assert sorted(found.rows[-1].traffic) == [0, 1, 2]
