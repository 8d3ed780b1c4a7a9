"""Whole runs in processes of their own, several at a time."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cutlayer.errors import RunError
from cutlayer.job import Job, dump_job

_LOOK_S = 0.1


@dataclass(frozen=True)
class Run:
    """A job, and the folder that its run gets."""

    job: Job
    folder: Path


def run_in_processes(runs: Sequence[Run], workers: int, say: Callable[[str], object]) -> None:
    """Simulate each run in a process of its own, `workers` of them at a time.

    Cores are divided among them, unless OMP_NUM_THREADS says otherwise. say: told of each run that
    begins. A run that fails ends the others: RunError, with what it said.
    """
    waiting = list(enumerate(runs))[::-1]
    threads = max(1, (os.cpu_count() or 1) // min(workers, len(runs)))
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    running: dict[subprocess.Popen[bytes], tuple[int, Run]] = {}
    with TemporaryDirectory() as place:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    number, run = waiting.pop()
                    say(f"{run.folder.name}: run {number + 1} of {len(runs)}")
                    running[_start(run, Path(place) / str(number), environment)] = (number, run)
                time.sleep(_LOOK_S)
                for process in [one for one in running if one.poll() is not None]:
                    number, run = running.pop(process)
                    # A run that ends worse than it began exits with 1, and is a run all the same.
                    if process.returncode not in (0, 1) or not (run.folder / "adapter").is_dir():
                        raise RunError(
                            f"--workers: the run in {run.folder} failed: "
                            f"{_last_line(Path(place) / f'{number}.log')}"
                        )
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()


def _start(run: Run, place: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    job = place.with_suffix(".yaml")
    job.write_text(dump_job(run.job), encoding="utf-8")
    command = [sys.executable, "-m", "cutlayer", "simulate", str(job), "--out", str(run.folder)]
    with place.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
