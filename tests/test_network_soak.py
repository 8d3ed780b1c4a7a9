"""Half an hour of devices that join, leave, lie and die. Slow: `pytest -m slow -k soak`.

SOAK_S sets another length, in seconds. The server is a process of its own, watched from outside.
"""

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("grpc")

from cutlayer.job import dump_job
from cutlayer.network.device import join as joining
from cutlayer.network.transport import keys
from cutlayer.network.transport.connection import Connection
from cutlayer.record.row_lines import read_rows
from fleet_helpers import Crowd, crowd, events, until
from helpers import small_job
from liars import FRAMES, Lie, tell
from net_helpers import Fleet

DEVICES = 8
NAMES = [f"cam-{number:04d}" for number in range(DEVICES)]
LENGTH_S = float(os.environ.get("SOAK_S", 1800))
# From a fifth of the time on, when what is loaded once is loaded. Memory: the rows that the run
# keeps; a connection that stayed would take some 0.3 MB, and one device in two seconds comes anew.
MOST_MB, MOST_THREADS, MOST_FILES = 40.0, 2, 2
# What the server frees goes back to the system, so that what is left is held; by itself the
# allocator keeps tens of megabytes, the more the busier the machine was.
GIVES_BACK = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_MMAP_THRESHOLD_": "131072",
}


@dataclass(frozen=True)
class Figures:
    """What a process holds at a time."""

    time_s: float
    megabytes: float
    threads: int
    files: int


def figures(process: psutil.Process, time_s: float) -> Figures:
    with process.oneshot():
        megabytes = process.memory_info().rss / 1e6
        return Figures(time_s, megabytes, process.num_threads(), process.num_fds())


def check_flat(whose: str, found: Sequence[Figures], most_mb: float) -> None:
    """The last fifth of the time holds no more than the second."""
    fifth = len(found) // 5
    before, after = found[fifth : 2 * fifth], found[-fifth:]
    grown = statistics.median(one.megabytes for one in after) - statistics.median(
        one.megabytes for one in before
    )
    assert grown < most_mb, f"{whose}: {grown:.0f} MB more"
    for what, most in (("threads", MOST_THREADS), ("files", MOST_FILES)):
        first, last = (max(getattr(one, what) for one in part) for part in (before, after))
        assert last - first <= most, f"{whose}: {what} grew from {first} to {last}"


class Troubles:
    """Devices to which something happens every now and then."""

    def __init__(self, devices: Crowd, fleet: Fleet, port: int, connections: Any) -> None:
        self._devices, self._fleet, self._port = devices, fleet, port
        self._connections: dict[int, Connection] = connections
        self._rng = random.Random(3)
        self.comings = 0
        for number in range(DEVICES):
            self._join(number)

    def one(self) -> None:
        """A device leaves or dies, with a new key perhaps, and comes again."""
        number = self._rng.randrange(DEVICES)
        if self._rng.random() < 0.5:
            self._devices.do(self._die(number))
        self._devices.leave(NAMES[number])
        if self._rng.random() < 0.2:
            keys.revoke(self._fleet.folder, NAMES[number])
            keys.add_device(self._fleet.folder, NAMES[number])
        time.sleep(self._rng.uniform(0, 1.5))
        self._join(number)
        time.sleep(self._rng.uniform(0.2, 2))

    async def _die(self, number: int) -> None:
        """Its connection is gone without a word, as that of a process that is killed."""
        if number in self._connections:
            self._connections[number].end("the device died")

    def _join(self, number: int) -> None:
        self.comings += 1
        identity = self._fleet.device(NAMES[number])
        self._devices.join(self._port, number, NAMES[number], identity=identity)


def kept(monkeypatch: pytest.MonkeyPatch) -> dict[int, Connection]:
    """The newest connection of each device, from now on."""
    connections: dict[int, Connection] = {}
    real = joining.connect

    async def connect(address: str, hello: Any, *rest: Any) -> Connection:
        connections[hello.number] = await real(address, hello, *rest)
        return connections[hello.number]

    monkeypatch.setattr(joining, "connect", connect)
    return connections


def serving(folder: Path, fleet: Fleet) -> "subprocess.Popen[bytes]":
    job = small_job(
        "training.rounds=1000000", "training.evaluate_every=50", f"devices.count={DEVICES}",
        "data.train_samples=160", "data.test_samples=20",
    )  # fmt: skip
    (folder / "job.yaml").write_text(dump_job(job))
    command = [
        sys.executable, "-m", "cutlayer", "serve", "job.yaml", "--out", "run",
        "--listen", "127.0.0.1:0", "--keys", str(fleet.folder), "--log", "net.log",
        "--min-devices", "3", "--patience", "20", "--deadline", "60",
    ]  # fmt: skip
    with (folder / "server.out").open("wb") as out:
        env = os.environ | GIVES_BACK
        return subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT)


@pytest.mark.slow
def test_a_soak_leaves_no_growth_and_a_whole_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    fleet = Fleet(tmp_path / "keys", *NAMES)
    # Two of the devices lie now and then, each time otherwise.
    rng, honest = random.Random(5), Lie()

    def sometimes(frame: bytes) -> bytes:
        lie = rng.choice(list(FRAMES.values())) if rng.random() < 0.1 else honest
        assert lie.activations is not None
        return lie.activations(frame)

    tell(monkeypatch, {number: Lie(activations=sometimes) for number in (6, 7)})
    connections = kept(monkeypatch)
    curves: dict[str, list[Figures]] = {"server": [], "devices": []}
    server = serving(tmp_path, fleet)
    try:
        until(lambda: bool(events(tmp_path / "net.log", "listening")) or server.poll() is not None)
        (port,) = (event["port"] for event in events(tmp_path / "net.log", "listening"))
        watched = {"server": psutil.Process(server.pid), "devices": psutil.Process()}
        began = time.monotonic()
        with crowd() as devices:
            troubles = Troubles(devices, fleet, port, connections)
            while (time_s := time.monotonic() - began) < LENGTH_S:
                troubles.one()
                assert server.poll() is None, (tmp_path / "server.out").read_text()[-2000:]
                for whose, process in watched.items():
                    curves[whose].append(figures(process, time_s))
            for name in NAMES:
                devices.leave(name)
            server.terminate()
            server.wait(60)
    finally:
        server.kill()
        lines = [f"{whose} {one}" for whose, curve in curves.items() for one in curve]
        (tmp_path / "curves.txt").write_text("\n".join(lines))
    check_flat("server", curves["server"], MOST_MB)
    # Devices here share a process, in which a device that comes anew makes its model anew.
    check_flat("devices", curves["devices"], 2 * MOST_MB)
    rows = read_rows(tmp_path / "run", pytest.fail)
    assert len(rows) >= 10
    assert [row.round for row in rows] == list(range(len(rows)))
    for row in rows:
        assert set(row.lost) <= set(row.decisions)
        assert set(row.device_loss) <= set(row.samples_trained)
