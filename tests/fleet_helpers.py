"""A server and its devices on loopback: devices as tasks of one thread, or as processes."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc")

from cutlayer.job import Job
from cutlayer.network.device.join import JoinOptions, attend
from cutlayer.network.server.serve import ServeOptions, resume_serving, serve
from cutlayer.network.server.timeouts import Timeouts
from cutlayer.network.transport.backoff import Backoff
from cutlayer.network.transport.event_log import EventLog
from cutlayer.rounds.progress import Progress
from cutlayer.rounds.result import Result

QUICK = Backoff(first_s=0.05, longest_s=0.2)


class Crowd:
    """Devices in a thread of this process; `errors` holds why those ended that failed."""

    def __init__(self) -> None:
        self.errors: dict[str, BaseException] = {}
        self.said: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def join(self, port: int, number: int, name: str | None = None, **place: Any) -> None:
        name = name or f"device-{number:04d}"
        where = JoinOptions(f"127.0.0.1:{port}", name=name, number=number, backoff=QUICK, **place)
        asyncio.run_coroutine_threadsafe(self._start(name, where), self._loop).result()

    async def _start(self, name: str, place: JoinOptions) -> None:
        async def attended() -> None:
            try:
                await attend(place, self.said.append, EventLog(None))
            except Exception as error:
                self.errors[name] = error

        self._tasks[name] = asyncio.create_task(attended())

    def run(self, work: Coroutine[Any, Any, Any], then: Callable[[Any], object]) -> None:
        """Run something beside the devices."""

        async def start() -> None:
            async def whole() -> None:
                then(await work)

            self._tasks[f"other {len(self._tasks)}"] = asyncio.create_task(whole())

        asyncio.run_coroutine_threadsafe(start(), self._loop).result()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something beside the devices and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def leave(self, name: str) -> None:
        self._loop.call_soon_threadsafe(self._tasks[name].cancel)

    def cancel(self) -> None:
        """Let all leave that have not ended."""
        for task in self._tasks.values():
            self._loop.call_soon_threadsafe(task.cancel)

    def close(self, wait_s: float) -> None:
        async def over() -> None:
            _, pending = await asyncio.wait(self._tasks.values(), timeout=wait_s)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

        if self._tasks:
            asyncio.run_coroutine_threadsafe(over(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@contextmanager
def crowd(wait_s: float = 30.0) -> Iterator[Crowd]:
    """Devices to join; at the end those are stopped that have not ended `wait_s` seconds later."""
    found = Crowd()
    try:
        yield found
    finally:
        found.close(wait_s)


def served(
    job: Job,
    out: Path,
    bring: Callable[[int], Any],
    *,
    progress: Progress | None = None,
    again: bool = False,
    port: int = 0,
    virtual: bool = False,
    rounds: int | None = None,
    **timeouts: Any,
) -> Result:
    """Serve a job on any free port; `bring` has them join once it is known."""
    options = ServeOptions(
        f"127.0.0.1:{port}",
        timeouts=Timeouts(**{"farewell_s": 0.0, **timeouts}),
        log=out.with_suffix(".log"),
        virtual=virtual,
    )
    if again:
        return resume_serving(out, rounds=rounds, options=options, progress=progress, on_port=bring)
    return serve(job, options=options, out=out, progress=progress, on_port=bring)


def served_to_all(job: Job, out: Path, devices: int) -> Result:
    """Serve a job to so many devices of this process, none of which fails."""
    with crowd() as found:
        result = served(job, out, lambda port: [found.join(port, n) for n in range(devices)])
    assert found.errors == {}
    return result


def process(port: int, number: int, *words: str) -> subprocess.Popen[bytes]:
    """A device as a process of its own."""
    command = [sys.executable, "-m", "cutlayer", "join", f"127.0.0.1:{port}", "--share"]
    name = ["--name", f"device-{number:04d}", "--number", str(number)]
    return subprocess.Popen([*command, *name, *words], stdout=subprocess.DEVNULL)


def events(log: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind in a log, so far."""
    lines = log.read_text().splitlines() if log.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [event for event in found if event["event"] == kind]


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds; fails after a time that no machine needs."""
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
