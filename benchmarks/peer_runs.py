"""Frameworks in environments of their own, and what one run of a work takes there."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

WORKER = Path(__file__).parent / "peer_work"
PIP_S = 1200
"""Seconds after which an installation counts as hanging."""

COMMON = ("torch==2.13.0", "transformers==5.23.0", "peft==0.21.2")
PINS: dict[str, tuple[str, ...]] = {
    "peft": COMMON,
    "pfl": (*COMMON, "pfl[pytorch]==0.6.0"),
    "flower": (*COMMON, "flwr[simulation]==1.42.0"),
    "nvflare": (*COMMON, "nvflare==2.9.0"),
}
"""What is installed for each framework; cutlayer runs in the environment of this script."""

POLL_S = 0.2


@dataclass(frozen=True)
class Taken:
    """What one run took. round_s, round_cpu_s: wall-clock and processor seconds of each round after
    the first, all processes together; first_s, first_cpu_s: from the start of the process to the
    end of the first round. peak_bytes: resident memory of all its processes, what they share
    counted once. up, down: bytes of all devices in a round."""

    first_s: float
    first_cpu_s: float
    round_s: tuple[float, ...]
    round_cpu_s: tuple[float, ...]
    peak_bytes: float
    losses: tuple[float, ...]
    up: float | None
    down: float | None
    versions: dict[str, str] = field(default_factory=dict)


class PeerError(Exception):
    """A framework could not be installed or did not do the work; one sentence says why."""


def environment(framework: str, folder: Path) -> str:
    """The Python of a framework's environment, made below `folder` if it is not there.

    Raises PeerError with what pip said.
    """
    if framework not in PINS:
        return sys.executable
    place, pins = folder / framework, PINS[framework]
    python, made = place / "bin" / "python", place / "pins.txt"
    if made.is_file() and made.read_text().split() == list(pins):
        return str(python)
    print(f"{framework}: installing {' '.join(pins)}", flush=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True, timeout=PIP_S)
        pip = [python, "-m", "pip", "install", "--quiet", *pins]
        ended = subprocess.run(pip, capture_output=True, text=True, timeout=PIP_S)
    except subprocess.TimeoutExpired:
        raise PeerError(f"its installation was not done after {PIP_S} s") from None
    if ended.returncode:
        said = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
        raise PeerError(f"pip said: {' '.join(said)[:300] or ended.stderr[-300:]}")
    made.write_text("\n".join(pins) + "\n")
    return str(python)


def run(framework: str, python: str, work: Path, limit_s: float) -> Taken:
    """Do the work of a file in a framework, all its processes on one core.

    Raises PeerError where it fails or takes longer than `limit_s`.
    """
    core = {max(os.sched_getaffinity(0))}
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    if framework in PINS:
        variables["PYTHONPATH"] = str(WORKER)  # processes that a framework starts find it, too
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "told.json", Path(folder) / "log.txt"
        with log.open("w") as file:
            began = time.time()
            process = subprocess.Popen(
                [python, WORKER, framework, work, out],
                env=variables,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, core),
            )
            watched = _Watched(process.pid)
            while process.poll() is None:
                watched.look()
                if time.time() - began > limit_s:
                    watched.end()
                    raise PeerError(f"it was not done after {limit_s:.0f} s")
                time.sleep(POLL_S)
        watched.end()
        if process.returncode or not out.exists():
            last = " ".join(log.read_text().split())[-300:]
            raise PeerError(f"it ended with status {process.returncode}: {last}")
        told = json.loads(out.read_text())
    ends = np.array([began, *told["ends"]])
    cpu = watched.cpu_at(ends)
    return Taken(
        first_s=float(ends[1] - began),
        first_cpu_s=float(cpu[1]),
        round_s=tuple(np.diff(ends)[1:].tolist()),
        round_cpu_s=tuple(np.diff(cpu)[1:].tolist()),
        peak_bytes=watched.peak_bytes,
        losses=tuple(told["losses"]),
        up=told["up"],
        down=told["down"],
        versions=told["versions"],
    )


class _Watched:
    """A process and all that it started: their memory now and then, and their processor time."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._spent: dict[psutil.Process, float] = {}
        self._times: list[float] = []
        self._cpu: list[float] = []
        self.peak_bytes = 0.0

    def look(self) -> None:
        """Measure once."""
        try:
            found = [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return
        resident = 0.0
        for one in found:
            try:
                times = one.cpu_times()
                self._spent[one] = times.user + times.system
                resident += one.memory_full_info().pss
            except psutil.Error:
                continue  # it ended meanwhile
        self._times.append(time.time())
        self._cpu.append(sum(self._spent.values()))
        self.peak_bytes = max(self.peak_bytes, resident)

    def cpu_at(self, times: np.ndarray) -> np.ndarray:
        """Processor seconds spent up to some times."""
        return np.interp(times, [0.0, *self._times], [0.0, *self._cpu])

    def end(self) -> None:
        """End what is left of the processes, of which Ray and NVFLARE start some of their own."""
        for one in self._spent:
            if one.is_running() and one.pid != os.getpid():
                try:
                    one.send_signal(signal.SIGKILL)
                except psutil.Error:
                    continue  # it ended meanwhile


def fastest(runs: Sequence[Taken], of: Callable[[Taken], Sequence[float]]) -> float:
    """The least of all rounds of several runs: other work on the machine only adds."""
    return min(value for one in runs for value in of(one))
