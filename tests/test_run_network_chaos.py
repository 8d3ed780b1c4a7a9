"""A run that is disturbed all the time ends as one that is not. Slow: `pytest -m slow -k chaos`."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("grpc")

from cutlayer import simulate
from cutlayer.job import Job, dump_job
from cutlayer.record.row_lines import line_of, read_rows
from cutlayer.record.rows import Row
from helpers import small_job

ROUNDS, DEVICES, SERVER_KILLS = 50, 12, 2
FOREVER_S = 3000


class Proxy:
    """Stands between devices and the server: cuts connections, and changes a byte on its way."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._corrupt = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def corrupt(self) -> None:
        """Change a byte of the next large piece that a device sends."""
        self._corrupt.set()

    def cut(self) -> None:
        """End a connection, without a word to either side."""
        if self._pairs:
            _close(self._pairs.pop(random.randrange(len(self._pairs))))

    def close(self) -> None:
        self._listening.close()
        for pair in self._pairs:
            _close(pair)

    def _accept(self) -> None:
        while True:
            try:
                device, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._port), timeout=5)
            except OSError:  # the server is away: so is the device's connection
                device.close()
                continue
            server.settimeout(None)
            self._pairs.append((device, server))
            for ends in ((device, server, True), (server, device, False)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, upward: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(2**16):
                if upward and len(piece) > 4096 and self._corrupt.is_set():
                    self._corrupt.clear()
                    place = random.randrange(len(piece) // 2, len(piece))
                    piece = piece[:place] + bytes([piece[place] ^ 0x55]) + piece[place + 1 :]
                sink.sendall(piece)
        _close((source, sink))


def _close(pair: tuple[socket.socket, socket.socket]) -> None:
    for end in pair:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


class Fleet:
    """Devices that are processes, each of which comes back when it was killed."""

    def __init__(self, port: int, folder: Path) -> None:
        self._port, self._folder = port, folder
        self.processes = {number: self._start(number) for number in range(DEVICES)}

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        words = ["--share", "--name", f"device-{number:04d}", "--number", str(number)]
        command = [sys.executable, "-m", "cutlayer", "join", f"127.0.0.1:{self._port}", *words]
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "CUTLAYER_CACHE": str(self._folder / f"{number}"),
        }  # fmt: skip
        with (self._folder / f"device-{number}.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def kill(self) -> None:
        number = random.randrange(DEVICES)
        self.processes[number].kill()
        self.processes[number].wait()
        self.processes[number] = self._start(number)

    def stall(self) -> None:
        process = random.choice(list(self.processes.values()))
        process.send_signal(signal.SIGSTOP)
        threading.Timer(random.uniform(0.5, 3), process.send_signal, (signal.SIGCONT,)).start()

    def close(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def chaos_job(seed: int) -> Job:
    return small_job(
        f"seed={seed}", f"training.rounds={ROUNDS}", f"devices.count={DEVICES}",
        "training.evaluate_every=10", "data.train_samples=240", "data.test_samples=500",
        "data.partition={kind: dirichlet, alpha: 1.0, min_samples: 8}",
        method="sflora",
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def begin(port: int, out: Path, job: Path | None) -> subprocess.Popen[bytes]:
    """The server, or (without a job) the server that goes on."""
    what = ["--resume", str(out)] if job is None else [str(job), "--out", str(out)]
    command = [sys.executable, "-m", "cutlayer", "serve", *what, "--listen", f"127.0.0.1:{port}"]
    with out.with_suffix(".server.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--patience", "15", "--min-devices", "6", "--log", f"{out}.events"],
            stdout=log,
            stderr=log,
        )


def rounds_done(out: Path) -> int:
    with suppress(OSError):
        return (out / "rounds.jsonl").read_bytes().count(b"\n")
    return 0


@pytest.mark.slow
def test_chaos_costs_devices_their_turns_and_never_the_run(tmp_path: Path) -> None:
    random.seed(0)
    plain = [simulate(chaos_job(seed), out=tmp_path / f"plain-{seed}") for seed in range(3)]
    out, port = tmp_path / "run", free_port()
    (tmp_path / "job.yaml").write_text(dump_job(chaos_job(0)))
    proxy = Proxy(port)
    server = begin(port, out, tmp_path / "job.yaml")
    fleet = Fleet(proxy.port, tmp_path)
    kills_at = [ROUNDS * (number + 1) // (SERVER_KILLS + 1) for number in range(SERVER_KILLS)]
    acts: list[Callable[[], None]] = [fleet.kill, fleet.stall, proxy.corrupt, proxy.cut]
    done, end = {act.__name__: 0 for act in acts}, time.monotonic() + FOREVER_S
    try:
        while server.poll() is None:
            assert time.monotonic() < end, (out.with_suffix(".server.log")).read_text()[-2000:]
            if kills_at and rounds_done(out) >= kills_at[0]:
                del kills_at[0]
                server.kill()
                server.wait()
                server = begin(port, out, None)
            elif rounds_done(out):
                act = random.choice(acts)
                act()
                done[act.__name__] += 1
            time.sleep(random.uniform(0.5, 1.5))
    finally:
        server.kill()
        fleet.close()
        proxy.close()
    assert server.wait() == 0, (out.with_suffix(".server.log")).read_text()[-2000:]
    assert not kills_at
    rows = read_rows(out)
    print(done, sum(len(row.lost) for row in rows), "turns lost")
    assert [row.round for row in rows] == list(range(ROUNDS))
    for row in rows:
        check(row, plain[0].rows[row.round])
    accuracies = [result.accuracy for result in plain]
    print(rows[-1].accuracy, accuracies)
    # Turns that are lost are noise too: no worse than seeds differ, and a little more.
    assert rows[-1].accuracy is not None
    assert rows[-1].accuracy > min(accuracies) - max(0.03, 2 * float(np.std(accuracies)))


def check(row: Row, undisturbed: Row) -> None:
    """A turn that counted took the bytes that it takes undisturbed; none is unaccounted for."""
    assert set(row.decisions) | set(row.left_out) == set(range(DEVICES))
    assert not set(row.decisions) & set(row.left_out)
    through = set(row.decisions) - set(row.lost)
    for device in through:
        assert row.traffic[device] == undisturbed.traffic[device]
        assert row.samples_trained[device] == undisturbed.samples_trained[device]
    assert json.loads(line_of(row))["round"] == row.round
