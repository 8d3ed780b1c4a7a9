"""Who has a place in a run, who loses it, who takes it over, and who learns of the end."""

import threading
from pathlib import Path

import pytest

pytest.importorskip("grpc")

from cutlayer.errors import RefusedError
from cutlayer.network.server.roster import Roster
from cutlayer.network.server.serve import ServeOptions, serve
from cutlayer.network.server.timeouts import Timeouts
from cutlayer.network.transport import keys
from cutlayer.network.transport.identity import load_server_identity
from cutlayer.record.rows import Row
from cutlayer.rounds.progress import Silent
from fleet_helpers import crowd, events, served, until
from helpers import small_job
from net_helpers import Fleet


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))


def roster(folder: Path, devices: int = 2) -> Roster:
    return Roster(folder / "fleet.json", devices)


def test_a_place_is_taken_when_a_device_is_ready_and_free_when_it_never_was(
    tmp_path: Path,
) -> None:
    places = roster(tmp_path)
    assert places.hold("a", None) == 0
    assert places.hold("b", None) == 1
    with pytest.raises(RefusedError, match="all 2 devices of the job are taken"):
        places.hold("c", None)
    places.take("a")
    places.let_go("b")
    assert places.hold("c", None) == 1
    assert roster(tmp_path).numbers == {"a": 0}


def test_a_device_that_never_gets_ready_holds_its_number_for_half_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("cutlayer.network.server.roster.time.monotonic", lambda: now[0])
    places = roster(tmp_path, devices=1)
    assert places.hold("slow", None) == 0
    now[0] = 1700.0
    with pytest.raises(RefusedError, match="all 1 devices"):
        places.hold("quick", None, connected={"slow"})
    now[0] = 1900.0
    assert places.hold("quick", None, connected={"slow"}) == 0
    with pytest.raises(RefusedError, match="slow took longer than 30 minutes"):
        places.take("slow")


def test_a_revoked_device_gives_its_number_to_its_successor(tmp_path: Path) -> None:
    places = roster(tmp_path)
    for name in ("a", "b"):
        places.hold(name, None)
        places.take(name)
    assert places.hold("c", None, gone=lambda owner: owner == "b") == 1
    places.take("c")
    assert roster(tmp_path).numbers == {"a": 0, "c": 1}
    with pytest.raises(RefusedError, match="1 is device c"):
        places.hold("d", 1)
    assert places.hold("d", 1, replaceable=lambda owner: owner == "c") == 1


def test_a_server_knows_whose_keys_were_revoked(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "keys", "cam-0", "cam-1")
    known = load_server_identity(fleet.folder).revocations
    assert known is not None
    assert known.names() == set()
    keys.revoke(fleet.folder, "cam-1")
    assert known.names() == {"cam-1"}
    keys.add_device(fleet.folder, "cam-1")
    assert known.names() == set()


def test_a_device_that_cannot_get_ready_leaves_its_place_to_another(tmp_path: Path) -> None:
    (tmp_path / "other" / "no-class-of-the-job").mkdir(parents=True)
    job = small_job("devices.count=1", "training.rounds=1", "data.train_samples=30")
    log = tmp_path / "net.log"
    with crowd() as devices:

        def bring(port: int) -> None:
            devices.join(port, 0, "broken", data=tmp_path / "other")

            def later() -> None:
                until(lambda: bool(events(log, "leave")))
                devices.join(port, 0, "good")

            threading.Thread(target=later, daemon=True).start()

        served(job, tmp_path / "net", bring)
    assert set(devices.errors) == {"broken"}
    assert (tmp_path / "net" / "fleet.json").read_text().count("good") == 1


def test_the_run_begins_without_those_that_stay_away_and_says_whom_it_waits_for(
    tmp_path: Path,
) -> None:
    job = small_job("devices.count=3", "training.rounds=1", "data.train_samples=60")
    heard = Heard()
    with crowd() as devices:
        found = served(
            job, tmp_path / "net", lambda port: devices.join(port, 1), progress=heard, begin_s=0.5
        )
    assert found.rows[0].cohort == [1]
    assert any("missing: 0, 2" in line for line in heard.said)


def test_nobody_waits_for_a_device_whose_keys_were_revoked(tmp_path: Path) -> None:
    fleet, log = Fleet(tmp_path / "keys", "cam-0", "cam-1"), tmp_path / "net.log"
    job = small_job("devices.count=2", "training.rounds=3", "data.train_samples=40")

    class Revoking(Heard):
        """Has the keys of a device revoked once a round is over."""

        def round_done(self, row: Row) -> None:
            if row.round == 0:
                keys.revoke(fleet.folder, "cam-1")
                until(lambda: bool(events(log, "leave")))
                self.said.clear()

    heard = Revoking()
    options = ServeOptions(
        "127.0.0.1:0",
        identity=fleet.server,
        timeouts=Timeouts(return_s=20.0, farewell_s=0.0),
        log=log,
    )
    with crowd() as devices:

        def bring(port: int) -> None:
            for number in (0, 1):
                name = f"cam-{number}"
                devices.join(port, number, name, identity=fleet.device(name))

        found = serve(job, options=options, out=tmp_path / "net", progress=heard, on_port=bring)
    assert [sorted(row.cohort) for row in found.rows] == [[0, 1], [0], [0]]
    assert not any(line.startswith("waiting for devices") for line in heard.said)


def test_a_device_that_is_away_when_the_job_ends_learns_it(tmp_path: Path) -> None:
    job = small_job("devices.count=2", "training.rounds=1", "data.train_samples=40")
    log = tmp_path / "net.log"
    with crowd() as devices:
        ports: list[int] = []

        class Last(Silent):
            def finished(self) -> None:
                devices.leave("device-0001")
                until(lambda: len(events(log, "leave")) == 1)
                timer = threading.Timer(0.5, devices.join, (ports[0], 1, "device-0001"))
                timer.daemon = True
                timer.start()

        def bring(port: int) -> None:
            ports.append(port)
            devices.join(port, 0)
            devices.join(port, 1)

        served(job, tmp_path / "net", bring, progress=Last(), farewell_s=60.0)
    assert devices.errors == {}
    assert devices.said.count("the job is done") == 2
