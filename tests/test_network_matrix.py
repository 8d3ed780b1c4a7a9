"""Every field of all that a device sends, at its ends and beyond, for each method, in whole runs.

Slow, and the whole of it takes an hour: `pytest -m slow tests/test_network_matrix.py`. A few of the
lies, for the jobs with most kinds of frames, are told in every run of the tests.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("grpc")

from cutlayer.job import Job
from cutlayer.methods import NAMES
from cutlayer.network.device import join as joining
from cutlayer.network.device.join import JoinOptions, attend
from cutlayer.network.transport import link_rates
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.event_log import EventLog
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.messages import Hello, Message, Ready
from cutlayer.record.row_lines import read_rows
from cutlayer.rounds.result import Result
from cutlayer.wire.frame import KINDS, kind_of
from cutlayer.wire.visit import decode_visit
from fleet_helpers import QUICK, crowd, served, until
from helpers import equal, language_job, small_job
from liars import Lie, tell
from lies_by_field import HEADERS, SAID, FieldLie, about_frames, about_messages
from tiny_models import write_language


@dataclass(frozen=True)
class Way:
    """How the devices of a job send: by its method and settings beside it. rounds: until all kinds
    of their frames were sent; texts: they train a language model."""

    method: str
    settings: tuple[str, ...] = ()
    rounds: int = 2
    texts: bool = False


WAYS = {name: Way(name) for name in NAMES if name != "centralized"} | {
    "changes": Way("sflora", ("method.uplink={bits: 4, change: true}",)),
    # All samples of a device in one step, so that each goes up in each of the ways there are.
    "coded changes": Way(
        "sflora",
        ("method.uplink={codec: klt, change: true}", "training.batch_size=8"),
        rounds=4,
    ),
    "tail": Way("sflora", ("model.tail=1",)),
    "coded tail": Way("sflora", ("model.tail=1", "method.uplink.codec=klt")),
    "texts": Way("sflora", texts=True),
    "coded texts": Way("sflora", ("method.uplink.codec=klt",), texts=True),
}
HONEST = (0, 1)
# Where neither an allocator nor a fit goes by who is there, who is left out changes nothing.
APART = ("local-lora", "fedlora", "split-lora", "sflora", "tsflora", "tail", "texts")
# At most so many devices in one run.
MOST = 70
WORLD: dict[str, Any] = {"deadline_s": 3000.0}
GENERATED: dict[str, Any] = {"generator": {"source": "demo"}, "amount": 10}
ALLOCATED = ("st-sflora", "st-sflora-full", "sflam", "asfl", "asfv", "auto", "genfv")


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    # What a loopback carries is measured a hundred times in one process.
    monkeypatch.setattr(link_rates, "MAX_PING_BYTES", 2**14)


JobOf = Callable[[str, int, int], Job]


@pytest.fixture(scope="module")
def job_of(tmp_path_factory: pytest.TempPathFactory) -> JobOf:
    """A job in which so many devices send in one of the ways, for so many rounds."""
    folder = tmp_path_factory.mktemp("texts")
    model, table = write_language(folder / "model"), folder / "pairs.jsonl"
    table.write_text('{"prompt": "name : dog", "completion": "the dog is here"}\n' * 11 * MOST)

    def job(way: str, devices: int, rounds: int) -> Job:
        method, texts = WAYS[way].method, WAYS[way].texts
        sections: dict[str, Any] = {"world": WORLD} if method in ALLOCATED else {}
        if method in ("genfl", "genfv"):
            sections["generated"] = GENERATED
        settings = (
            f"training.rounds={rounds}", "training.batch_size=4", f"devices.count={devices}",
            f"data.train_samples={8 * devices}", "data.test_samples=20", "data.partition.kind=iid",
            *WAYS[way].settings,
        )  # fmt: skip
        if texts:
            return language_job(model, table, "training.pool=1", *settings, method=method)
        return small_job(*settings, method=method, **sections)

    return job


def run(
    job: Job, out: Path, numbers: Sequence[int], light: Collection[int] = (), **timeouts: float
) -> tuple[Result, dict[int, list[str]]]:
    """Serve a job to devices of these numbers; also returns what each was told or ended by.

    light: those who say that they run without torch, whom a server that is yet to begin lets wait.
    """
    told: dict[int, list[str]] = defaultdict(list)

    async def take_part(port: int, number: int) -> None:
        name = f"device-{number:04d}"
        options = JoinOptions(f"127.0.0.1:{port}", name=name, number=number, backoff=QUICK)
        try:
            await attend(options, told[number].append, EventLog(None))
        except Exception as error:
            told[number].append(str(error))

    with crowd() as devices:

        def bring(port: int) -> None:
            for some in (HONEST, numbers[len(HONEST) :]):
                for number in some:
                    devices.run(take_part(port, number), lambda _: None)
                answered = set(some) - set(light)
                until(lambda these=answered: all(told[one] for one in these))  # type: ignore[misc]

        waits = {"devices": len(numbers), "begin_s": 5.0, "return_s": 0.0, "answer_s": 90.0}
        found = served(job, out, bring, **{**waits, **timeouts})
        devices.cancel()
    return found, told


def check(found: Result, out: Path, allocated: bool) -> None:
    """The run came to its end, with the honest devices in it, and what it wrote is whole."""
    rows = read_rows(out, pytest.fail)
    assert [row.round for row in rows] == list(range(found.job.training.rounds))
    for row in rows:
        through = set(row.decisions) - set(row.lost)
        assert not set(HONEST) & set(row.lost), row.lost
        assert set(HONEST) <= (through | set(row.left_out) if allocated else through)
        assert row.loss is None or math.isfinite(row.loss)
    assert all(torch.isfinite(tensor).all() for tensor in found.adapter.values())


def kinds_sent(job: Job, out: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[set[type], set[str]]:
    """The kinds of messages and frames that honest devices of a job send."""
    messages: set[type] = {Hello}
    frames: set[str] = set()
    real = joining.connect

    async def connect(*given: Any) -> Connection:
        connection = await real(*given)
        honest_tell, honest_send = connection.tell, connection.send

        async def tell(message: Message) -> None:
            messages.add(type(message))
            await honest_tell(message)

        async def send(lane: Lane, frame: Any) -> None:
            frames.add(kind_of(frame))
            if kind_of(frame) == "visit":
                frames.update(kind_of(one) for one in decode_visit(frame).frames.values() if one)
            await honest_send(lane, frame)

        connection.tell, connection.send = tell, send  # type: ignore[method-assign]
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(joining, "connect", connect)
        run(job, out, range(job.devices.count))
    return messages, frames


def parts(lies: Sequence[FieldLie]) -> list[Sequence[FieldLie]]:
    """Lies for one run each: of all kinds, so that no kind has too few honest ones to be sent."""
    runs = -(-len(lies) // MOST)
    return [lies[start::runs] for start in range(runs)]


def lied(lies: Sequence[FieldLie], job: Job, out: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """A run in which each of the lies is told by a device of its own, beside two honest ones."""
    liars = dict(enumerate(lies, len(HONEST)))
    assert job.devices.count == len(HONEST) + len(liars)
    light = [number for number, one in liars.items() if one.name.startswith("Hello.light")]
    with monkeypatch.context() as patch:
        tell(patch, {number: one.lie for number, one in liars.items()})
        found, told = run(job, out, [*HONEST, *liars], light)
    allocated = job.method.name in ALLOCATED  # some may be left out of every round
    check(found, out, allocated)
    for number, one in liars.items():
        # A liar about its number may have taken this one's place.
        placeless = any("take another" in line for line in told[number])
        assert allocated or placeless or one.told, f"{one.name}: never said"
        assert not any("Internal" in line or "Error(" in line for line in told[number]), one.name
    return found


def all_lies(job: Job, out: Path, monkeypatch: pytest.MonkeyPatch) -> list[FieldLie]:
    """Lies about all that the devices of a job send."""
    messages, frames = kinds_sent(job, out, monkeypatch)
    said = tuple(kind for kind in SAID if kind in messages)
    lies = [*about_messages(said), *about_frames(frames)]
    kinds = ", ".join(sorted([*(kind.__name__ for kind in said), *frames]))
    print(f"{len(lies)} lies about {kinds}")
    return lies


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_no_field_that_a_device_sends_ends_a_run_or_costs_another_device(
    way: str, job_of: JobOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = WAYS[way].rounds
    lies = all_lies(job_of(way, 8, rounds), tmp_path / "kinds", monkeypatch)
    for number, some in enumerate(parts(lies)):
        job = job_of(way, len(HONEST) + len(some), rounds)
        lied(some, job, tmp_path / f"run-{number}", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("way", APART)
def test_who_is_out_of_bounds_leaves_the_run_as_it_is_without(
    way: str, job_of: JobOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies = all_lies(job_of(way, 2, 2), tmp_path / "kinds", monkeypatch)
    for number, some in enumerate(parts([one for one in lies if one.outside])):
        job = job_of(way, len(HONEST) + len(some), 1)
        found = lied(some, job, tmp_path / f"run-{number}", monkeypatch)
        assert set(found.rows[0].decisions) - set(found.rows[0].lost) == set(HONEST)
        alone, _ = run(job, tmp_path / f"alone-{number}", HONEST)
        assert equal(found.adapter, alone.adapter)
        assert found.rows[0].accuracy == alone.rows[0].accuracy


def again(frames: list[bytes]) -> Callable[[bytes], bytes]:
    """A device that sends what it sent first, whatever is due."""

    def first(frame: bytes) -> bytes:
        frames.append(frame)
        return frames[0]

    return first


def swapped(frames: list[bytes]) -> Callable[[bytes], bytes]:
    """A device whose frames come in another order: the second again in place of the third."""

    def late(frame: bytes) -> bytes:
        frames.append(frame)
        return frames[max(0, len(frames) - 2)]

    return late


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_what_comes_again_or_late_or_never_costs_its_sender_the_round(
    way: str, job_of: JobOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once: list[Message] = []

    def late(message: Message) -> Message:
        if not isinstance(message, Hello | Ready):
            once.append(message)
        return once[0] if once else message

    def mute(message: Message) -> Message | None:
        return message if isinstance(message, Hello | Ready) else None

    lies = {
        2: Lie(activations=again([]), adapter=again([])),
        3: Lie(activations=swapped([]), adapter=again([])),
        4: Lie(message=late),
        5: Lie(message=mute, activations=None),
    }
    tell(monkeypatch, lies)
    numbers = [*HONEST, *lies]
    job = job_of(way, len(numbers), WAYS[way].rounds)
    found, _ = run(job, tmp_path / "run", numbers, answer_s=20.0)
    check(found, tmp_path / "run", job.method.name in ALLOCATED)
    for row in found.rows:
        assert 5 not in set(row.decisions) - set(row.lost)


def test_each_kind_of_frame_is_lied_about() -> None:
    down = {
        "gradient", "coded gradient", "basis", "spatial basis", "token basis", "held", "features",
        "coded features",
    }  # fmt: skip
    assert set(HEADERS) == set(KINDS) - down


# Of the ways with most kinds of frames, one lie for each of their headers.
FEW = {
    "lean": (
        "visit samples: twice",
        "visit lengths: half",
        "visit device: 9007199254740992",
        "visit with half a body",
        "coded activations coding.fingerprint: one more",
        "coded activations candidates: 1048576",
        "coded activations shape: 2147483648 in place 1",
        "coded activations without a body",
        "activations num_classes: 2147483648",
        "activations tensor.bits: 32",
        "Ready.basis: 9223372036854775807",
        "every message twice",
    ),
    "changes": (
        "change shape: 2147483648 in place 1",
        "change num_classes: 2147483648",
        "change tensor.bits: 32",
        "change of kind 0",
        "change with half a body",
        "visit lengths: half",
    ),
    "coded tail": (
        "feature gradient rows: 2147483648",
        "feature gradient loss: nan",
        "coded feature gradient coding.fingerprint: one more",
        "coded feature gradient coding.step: 1e+30",
        "coded feature gradient with half a body",
        "coded feature gradient of nothing",
    ),
}


@pytest.mark.parametrize("way", FEW)
def test_lies_of_the_ways_with_most_kinds_of_frames_cost_no_other_device(
    way: str, job_of: JobOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {one.name: one for one in (*about_messages((Ready,)), *about_frames(set(HEADERS)))}
    job = job_of(way, len(HONEST) + len(FEW[way]), WAYS[way].rounds)
    lied([known[name] for name in FEW[way]], job, tmp_path / "run", monkeypatch)
