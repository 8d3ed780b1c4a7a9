"""Half an hour of devices that join, leave, lie and die. Slow: `pytest -m slow -k soak`.

SOAK_S sets another length, in seconds.
"""

import gc
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc")

from cutlayer.network.server.remote_fleet import Timeouts
from cutlayer.network.server.serve import ServeOptions, serve
from cutlayer.network.transport import keys
from cutlayer.network.transport.identity import load_server_identity
from cutlayer.record.rows import Row, read_rows
from cutlayer.rounds.progress import Silent
from fleet_helpers import Crowd, crowd
from helpers import small_job
from liars import FRAMES, Lie, tell
from net_helpers import Fleet

DEVICES = 8
LENGTH_S = float(os.environ.get("SOAK_S", 1800))
# Growth that a long run may show: caches fill, and an allocator keeps what it once had.
MOST_MB, MOST_THREADS, MOST_FILES = 150, 8, 40


def measured() -> tuple[float, int, int]:
    """Resident memory in MB, threads, and open files of this process, garbage apart."""
    gc.collect()  # a connection and its channel hold each other
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return megabytes, threading.active_count(), len(os.listdir("/proc/self/fd"))


class Enough(Exception):  # noqa: N818 - no error: the time is over
    """The soak has lasted long enough."""


class Watching(Silent):
    """Measures the process at each round's end, and stops the run when the time is over."""

    def __init__(self) -> None:
        self.rounds: list[tuple[float, int, int]] = []
        self._until = time.monotonic() + LENGTH_S

    def round_done(self, row: Row) -> None:
        self.rounds.append(measured())
        if time.monotonic() > self._until:
            raise Enough


class Trouble:
    """Does something to a device every now and then, from a thread of its own."""

    def __init__(self, devices: Crowd, fleet: Fleet, port: int, seed: int = 3) -> None:
        self._devices, self._fleet, self._port = devices, fleet, port
        self._rng = random.Random(seed)
        self._over = threading.Event()
        self._names = [f"cam-{number:04d}" for number in range(DEVICES)]
        for number in range(DEVICES):
            self._join(number)
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _join(self, number: int) -> None:
        name = self._names[number]
        place: dict[str, Any] = {"identity": self._fleet.device(name)}
        self._devices.join(self._port, number, name, **place)

    def _go_on(self) -> None:
        while not self._over.wait(self._rng.uniform(0.5, 3)):
            number = self._rng.randrange(DEVICES)
            name = self._names[number]
            self._devices.leave(name)
            if self._rng.random() < 0.2:
                keys.revoke(self._fleet.folder, name)
                keys.add_device(self._fleet.folder, name)
            self._over.wait(self._rng.uniform(0, 2))
            self._join(number)


@pytest.mark.slow
def test_a_soak_leaves_no_growth_and_a_whole_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    fleet = Fleet(tmp_path / "keys", *(f"cam-{number:04d}" for number in range(DEVICES)))
    rng = random.Random(5)
    # Two of the devices lie now and then, each time otherwise.
    honest = Lie()

    def sometimes(frame: bytes) -> bytes:
        lie = rng.choice(list(FRAMES.values())) if rng.random() < 0.1 else honest
        assert lie.activations is not None
        return lie.activations(frame)

    tell(monkeypatch, {number: Lie(activations=sometimes) for number in (6, 7)})
    job = small_job(
        "training.rounds=1000000", "training.evaluate_every=50", f"devices.count={DEVICES}",
        "data.train_samples=160", "data.test_samples=20",
    )  # fmt: skip
    watching = Watching()
    options = ServeOptions(
        "127.0.0.1:0",
        load_server_identity(fleet.folder),
        timeouts=Timeouts(devices=3, answer_s=20.0, return_s=0.5, round_s=60.0),
        log=tmp_path / "net.log",
    )
    troubles: list[Trouble] = []
    with crowd() as devices:
        try:
            with pytest.raises(Enough):
                serve(
                    job, options=options, out=tmp_path / "run", progress=watching,
                    on_port=lambda port: troubles.append(Trouble(devices, fleet, port)),
                )  # fmt: skip
        finally:
            for trouble in troubles:
                trouble.close()
            for name in list(devices._tasks):
                devices.leave(name)
    rounds = watching.rounds
    assert len(rounds) >= 10
    # By half of the rounds what is loaded once is loaded, and the allocator has what it keeps.
    before, after = rounds[len(rounds) // 2], rounds[-1]
    assert after[0] - before[0] < MOST_MB
    assert after[1] - before[1] <= MOST_THREADS
    assert after[2] - before[2] <= MOST_FILES
    rows = read_rows(tmp_path / "run", pytest.fail)
    assert [row.round for row in rows] == list(range(len(rounds)))
    for row in rows:
        assert set(row.lost) <= set(row.decisions)
        assert set(row.device_loss) <= set(row.samples_all_epochs)
